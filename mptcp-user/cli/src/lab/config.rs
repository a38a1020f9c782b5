//! The configuration of the emulated network, from flags and TOML files.
//!
//! Both speak the same language: a flag's `rate=100mbit,delay=20ms,loss=1%` has the keys and values of a TOML
//! table `[forward]`.

use super::units;
use mptcp_sim::middlebox::{Action, BoxConfig, OptionKind, Passing, Way, When};
use mptcp_sim::{Discipline, LinkConfig, Loss};
use serde::Deserialize;
use std::time::Duration;

/// A setting that can't be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

fn wrong(text: impl Into<String>) -> ConfigError {
    ConfigError(text.into())
}

/// A value as people write it: TOML's strings, numbers and truth values alike.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Truth(bool),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Truth(truth) => truth.fmt(f),
        }
    }
}

/// Keys and values in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
struct Settings(std::collections::BTreeMap<String, Value>);

impl Settings {
    /// Reads `key=value,key=value`; a key alone is true.
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, "true"));
            let value = Value::Text(value.trim().to_owned());
            if settings.0.insert(key.trim().to_owned(), value).is_some() {
                return Err(wrong(format!("'{key}' is given twice in '{text}'")));
            }
        }
        Ok(settings)
    }
}

/// Settings of one direction, each as it was written. Keys that are not set leave what was there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct LinkSettings(Settings);

/// The keys of a link, for help texts.
const LINK_KEYS: &str = "rate, delay, jitter, jitter-reorders, loss, burst (mean length of a loss burst in packets), \
                         reorder, reorder-by, duplicate, corrupt, queue (packets), queue-octets, codel, pie, \
                         mtu (longer packets disappear)";

impl LinkSettings {
    /// Reads `rate=100mbit,delay=20ms,loss=1%`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let settings = Self(Settings::parse(text)?);
        settings.apply(&mut LinkConfig::default())?;
        Ok(settings)
    }

    /// Changes a link as these settings say.
    pub fn apply(&self, link: &mut LinkConfig) -> Result<(), ConfigError> {
        let mut loss = None;
        let mut burst = None;
        for (key, value) in &self.0.0 {
            let text = value.to_string();
            let result = match key.as_str() {
                "rate" => units::rate(&text).map(|rate| link.rate = Some(rate)),
                "delay" => units::duration(&text).map(|delay| link.delay = delay),
                "jitter" => units::duration(&text).map(|jitter| link.jitter = jitter),
                "jitter-reorders" => truth(&text).map(|truth| link.jitter_reorders = truth),
                "loss" => units::probability(&text).map(|probability| loss = Some(probability)),
                "burst" => text
                    .parse::<f64>()
                    .ok()
                    .filter(|mean| *mean >= 1.0)
                    .map(|mean| burst = Some(mean))
                    .ok_or_else(|| format!("'{text}' is not a mean burst length: at least 1 packet")),
                "reorder" => units::probability(&text).map(|probability| link.reorder = probability),
                "reorder-by" => units::duration(&text).map(|delay| link.reorder_by = delay),
                "duplicate" => units::probability(&text).map(|probability| link.duplicate = probability),
                "corrupt" => units::probability(&text).map(|probability| link.corrupt = probability),
                "queue" => units::count(&text).map(|packets| link.queue_packets = packets.max(1)),
                "queue-octets" => units::octets(&text).map(|octets| link.queue_octets = octets.max(1)),
                "mtu" => units::octets(&text).map(|octets| link.mtu = Some(octets)),
                "codel" | "pie" => truth(&text).map(|truth| {
                    let managed = if key == "pie" { Discipline::PIE } else { Discipline::CODEL };
                    link.discipline = if truth { managed } else { Discipline::DropTail };
                }),
                _ => return Err(wrong(format!("a link has no '{key}'; it has: {LINK_KEYS}"))),
            };
            result.map_err(|error| wrong(format!("{key}: {error}")))?;
        }
        match (loss, burst) {
            (Some(loss), None) => link.loss = Loss::Random(loss),
            (Some(loss), Some(mean)) if loss < 1.0 => {
                // All is lost while bad; bad for `mean` packets on average, and for `loss` of all packets.
                let to_good = 1.0 / mean;
                let to_bad = (to_good * loss / (1.0 - loss)).min(1.0);
                link.loss = Loss::GilbertElliott { to_bad, to_good, loss_good: 0.0, loss_bad: 1.0 };
            }
            (Some(_), Some(_)) => link.loss = Loss::Random(1.0),
            (None, Some(_)) => {
                return Err(wrong("burst: needs a loss probability too, as in loss=1%,burst=5"));
            }
            (None, None) => {}
        }
        Ok(())
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("'{text}' is neither true nor false")),
    }
}

/// One middlebox, as it was written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct BoxSettings(Settings);

const BOX_KINDS: &str = "strip, drop, mss-clamp, ecn-bleach, lie-in-sack, rewrite-timestamps, randomise-sequence, split, coalesce, \
                         nat, replace, shrink-window, early-ack, proxy";

impl BoxSettings {
    /// Reads `strip,option=mptcp,when=syn`: the kind of box first, then its settings.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
        let mut settings = Settings::parse(rest)?;
        settings.0.insert("kind".into(), Value::Text(kind.trim().to_owned()));
        let settings = Self(settings);
        settings.build()?;
        Ok(settings)
    }

    /// The box it means.
    pub fn build(&self) -> Result<BoxConfig, ConfigError> {
        let mut left: std::collections::BTreeMap<&str, String> =
            self.0.0.iter().map(|(key, value)| (key.as_str(), value.to_string())).collect();
        let kind = left.remove("kind").ok_or_else(|| wrong(format!("a box needs a kind: {BOX_KINDS}")))?;
        let missing = |key: &str, example: &str| wrong(format!("{kind}: needs {key}, as in {example}"));
        let in_key = |key: &'static str| move |error: String| wrong(format!("{key}: {error}"));
        let config = match kind.as_str() {
            "strip" | "drop" => BoxConfig::Option {
                option: option_kind(
                    &left.remove("option").ok_or_else(|| missing("option", "option=mptcp"))?,
                )?,
                when: left.remove("when").map_or(Ok(When::Always), |text| when(&text))?,
                way: left.remove("way").map(|text| way(&text)).transpose()?,
                action: if kind == "strip" { Action::Strip } else { Action::Drop },
            },
            "mss-clamp" => {
                let text = left.remove("mss").ok_or_else(|| missing("mss", "mss=1300"))?;
                BoxConfig::MssClamp { mss: small(&text).map_err(in_key("mss"))? }
            }
            "ecn-bleach" => BoxConfig::EcnBleacher,
            "lie-in-sack" => BoxConfig::SackLiar,
            "rewrite-timestamps" => BoxConfig::TimestampRewriter,
            "randomise-sequence" => BoxConfig::SequenceRandomiser {
                translate_sack: left
                    .remove("sack")
                    .map_or(Ok(true), |text| truth(&text))
                    .map_err(in_key("sack"))?,
            },
            "split" => {
                let text = left.remove("size").ok_or_else(|| missing("size", "size=500"))?;
                BoxConfig::Splitter {
                    size: small(&text).map_err(in_key("size"))?,
                    repeat_options: left
                        .remove("repeat-options")
                        .map_or(Ok(true), |text| truth(&text))
                        .map_err(in_key("repeat-options"))?,
                }
            }
            "coalesce" => BoxConfig::Coalescer {
                limit: left
                    .remove("limit")
                    .map_or(Ok(60_000), |text| units::octets(&text))
                    .map_err(in_key("limit"))?,
                hold: left
                    .remove("hold")
                    .map_or(Ok(Duration::from_micros(500)), |text| units::duration(&text))
                    .map_err(in_key("hold"))?,
                careless: left
                    .remove("careless")
                    .map_or(Ok(false), |text| truth(&text))
                    .map_err(in_key("careless"))?,
            },
            "nat" => {
                let text =
                    left.remove("external").ok_or_else(|| missing("external", "external=203.0.113.1"))?;
                BoxConfig::Nat {
                    external: text
                        .parse()
                        .map_err(|_| wrong(format!("external: '{text}' is not an IP address")))?,
                    idle: left
                        .remove("idle")
                        .map_or(Ok(Duration::from_secs(300)), |text| units::duration(&text))
                        .map_err(in_key("idle"))?,
                }
            }
            "replace" => BoxConfig::PayloadChanger {
                way: left.remove("way").map_or(Ok(Way::Forward), |text| way(&text))?,
                needle: left.remove("find").ok_or_else(|| missing("find", "find=abc,with=xyz"))?.into_bytes(),
                replacement: left.remove("with").unwrap_or_default().into_bytes(),
                limit: left
                    .remove("limit")
                    .map_or(Ok(usize::MAX), |text| units::count(&text))
                    .map_err(in_key("limit"))?,
            },
            "shrink-window" => {
                let text = left.remove("limit").ok_or_else(|| missing("limit", "limit=200"))?;
                BoxConfig::WindowShrinker {
                    limit: small(&text).map_err(in_key("limit"))?,
                    wavering: left
                        .remove("wavering")
                        .map_or(Ok(false), |text| truth(&text))
                        .map_err(in_key("wavering"))?,
                }
            }
            "early-ack" => {
                BoxConfig::EarlyAcker { way: left.remove("way").map_or(Ok(Way::Forward), |text| way(&text))? }
            }
            "proxy" => BoxConfig::TcpProxy {
                passing: match left.remove("options").as_deref() {
                    None | Some("drop") => Passing::Nothing,
                    Some("syn") => Passing::Syn,
                    Some("pass") => Passing::All,
                    Some(text) => {
                        return Err(wrong(format!("options: '{text}' is none of drop, syn, pass")));
                    }
                },
            },
            _ => return Err(wrong(format!("there is no box '{kind}'; there are: {BOX_KINDS}"))),
        };
        let one_way = left.remove("way").map(|text| way(&text)).transpose()?;
        let sees_both = matches!(
            config,
            BoxConfig::TimestampRewriter
                | BoxConfig::SequenceRandomiser { .. }
                | BoxConfig::Nat { .. }
                | BoxConfig::TcpProxy { .. }
        );
        let config = match one_way {
            Some(_) if sees_both => {
                return Err(wrong(format!("{kind}: must see both directions, has no 'way'")));
            }
            Some(way) => BoxConfig::OneWay { way, inner: Box::new(config) },
            None => config,
        };
        match left.keys().next() {
            None => Ok(config),
            Some(key) => Err(wrong(format!("{kind}: has no '{key}'"))),
        }
    }
}

fn small(text: &str) -> Result<u16, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("'{text}' is not between 1 and 65535"))
}

fn option_kind(text: &str) -> Result<OptionKind, ConfigError> {
    Ok(match text {
        "mss" => OptionKind::Mss,
        "window-scale" => OptionKind::WindowScale,
        "sack" => OptionKind::Sack,
        "timestamps" => OptionKind::Timestamps,
        "mptcp" => OptionKind::Mptcp,
        "mp-capable" => OptionKind::MpCapable,
        "mp-join" => OptionKind::MpJoin,
        "dss" => OptionKind::Dss,
        "add-addr" => OptionKind::AddAddr,
        "unknown" => OptionKind::Unknown,
        _ => {
            return Err(wrong(format!(
                "'{text}' is not an option a box knows: mss, window-scale, sack, timestamps, mptcp, mp-capable, \
                 mp-join, dss, add-addr, unknown"
            )));
        }
    })
}

fn when(text: &str) -> Result<When, ConfigError> {
    match text {
        "always" => Ok(When::Always),
        "syn" => Ok(When::Syn),
        "not-syn" => Ok(When::NotSyn),
        "data" => Ok(When::Data),
        "opening-syn" => Ok(When::OpeningSyn),
        "syn-ack" => Ok(When::SynAck),
        "third-ack" => Ok(When::ThirdAck),
        _ => match text.strip_prefix("after:").map(units::duration) {
            Some(Ok(after)) => Ok(When::Later(after)),
            Some(Err(error)) => Err(wrong(format!("when: {error}"))),
            None => Err(wrong(format!(
                "when: '{text}' is none of always, syn, not-syn, data, opening-syn, syn-ack, third-ack, after:5s"
            ))),
        },
    }
}

fn way(text: &str) -> Result<Way, ConfigError> {
    match text {
        "forward" => Ok(Way::Forward),
        "reverse" => Ok(Way::Reverse),
        _ => Err(wrong(format!("way: '{text}' is neither forward nor reverse"))),
    }
}

/// The whole emulated network between two interfaces.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct LabConfig {
    /// From the first interface to the second.
    pub forward: LinkConfig,
    /// From the second to the first.
    pub reverse: LinkConfig,
    /// Middleboxes, the first one nearest to the first interface.
    pub boxes: Vec<BoxConfig>,
    /// When nothing gets through in either direction.
    pub outages: Vec<Outage>,
    /// Seed of everything random.
    pub seed: u64,
}

/// A time in which the lab drops all packets, also those under way when it begins. The interfaces stay up: no
/// host is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outage {
    /// Its beginning, from the start of the emulator on.
    pub from: Duration,
    /// Its end, if it has one.
    pub until: Option<Duration>,
}

impl Outage {
    /// Pairs each beginning with the end that follows it.
    ///
    /// # Errors
    /// An end without a beginning before it.
    pub fn pair(down: &[Duration], up: &[Duration]) -> Result<Vec<Self>, ConfigError> {
        let mut down = down.to_vec();
        down.sort();
        let end = |from: &Duration, next: Option<&Duration>| {
            let later = up.iter().filter(|up| *up > from && next.is_none_or(|next| *up <= next));
            later.min().copied()
        };
        let outages: Vec<Self> = down
            .iter()
            .enumerate()
            .map(|(number, from)| Self { from: *from, until: end(from, down.get(number + 1)) })
            .collect();
        if outages.iter().filter(|outage| outage.until.is_some()).count() != up.len() {
            return Err(wrong(
                "each up-at needs a down-at before it, and each down-at has one up-at at most",
            ));
        }
        Ok(outages)
    }

    /// Whether it lasts at this time from the start on.
    pub fn lasts(&self, time: Duration) -> bool {
        self.from <= time && self.until.is_none_or(|until| time < until)
    }
}

/// A TOML file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    both: LinkSettings,
    #[serde(default)]
    forward: LinkSettings,
    #[serde(default)]
    reverse: LinkSettings,
    #[serde(default, rename = "box")]
    boxes: Vec<BoxSettings>,
    #[serde(default, rename = "down-at")]
    down_at: Vec<String>,
    #[serde(default, rename = "up-at")]
    up_at: Vec<String>,
    seed: Option<u64>,
}

impl LabConfig {
    /// Reads a TOML file: tables `[both]`, `[forward]`, `[reverse]`, any number of `[[box]]`, lists `down-at`
    /// and `up-at`, and `seed`.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut config = Self { seed: file.seed.unwrap_or_default(), ..Self::default() };
        for link in [&mut config.forward, &mut config.reverse] {
            file.both.apply(link)?;
        }
        file.forward.apply(&mut config.forward)?;
        file.reverse.apply(&mut config.reverse)?;
        let times = |key: &str, all: &[String]| -> Result<Vec<Duration>, ConfigError> {
            let parse =
                |text: &String| units::duration(text).map_err(|error| wrong(format!("{key}: {error}")));
            all.iter().map(parse).collect()
        };
        config.outages = Outage::pair(&times("down-at", &file.down_at)?, &times("up-at", &file.up_at)?)?;
        config.boxes = file.boxes.iter().map(BoxSettings::build).collect::<Result<_, _>>()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_files_say_the_same() {
        let file = LabConfig::from_toml(
            r#"
            seed = 7
            [both]
            rate = "100mbit"
            queue = 50
            [forward]
            delay = "20ms"
            loss = "1%"
            pie = true
            [reverse]
            codel = true
            corrupt = 0.01
            mtu = 1300
            [[box]]
            kind = "strip"
            option = "mptcp"
            when = "syn"
            [[box]]
            kind = "nat"
            external = "203.0.113.1"
            [[box]]
            kind = "split"
            size = 500
            way = "reverse"
            [[box]]
            kind = "strip"
            option = "unknown"
            when = "after:2s"
            [[box]]
            kind = "shrink-window"
            limit = 100
            wavering = true
            [[box]]
            kind = "early-ack"
            way = "reverse"
            [[box]]
            kind = "proxy"
            options = "pass"
            "#,
        )
        .unwrap();
        let mut flags = LabConfig { seed: 7, ..LabConfig::default() };
        for link in [&mut flags.forward, &mut flags.reverse] {
            LinkSettings::parse("rate=100mbit,queue=50").unwrap().apply(link).unwrap();
        }
        LinkSettings::parse("delay=20ms, loss=1%, pie").unwrap().apply(&mut flags.forward).unwrap();
        LinkSettings::parse("codel,corrupt=1%,mtu=1300").unwrap().apply(&mut flags.reverse).unwrap();
        let boxes = [
            "strip,option=mptcp,when=syn",
            "nat,external=203.0.113.1",
            "split,size=500,way=reverse",
            "strip,option=unknown,when=after:2s",
            "shrink-window,limit=100,wavering",
            "early-ack,way=reverse",
            "proxy,options=pass",
        ];
        for text in boxes {
            flags.boxes.push(BoxSettings::parse(text).unwrap().build().unwrap());
        }
        assert_eq!(file, flags);
        assert_eq!(file.forward.delay, Duration::from_millis(20));
        assert_eq!(file.reverse.loss, Loss::None);
    }

    #[test]
    fn outages_have_a_beginning_and_perhaps_an_end() {
        let file = LabConfig::from_toml("down-at = ['9s', '3s']\nup-at = ['8s']").unwrap();
        let seconds = Duration::from_secs;
        let first = Outage { from: seconds(3), until: Some(seconds(8)) };
        assert_eq!(file.outages, [first, Outage { from: seconds(9), until: None }]);
        let lasts = |time| file.outages.iter().any(|outage| outage.lasts(seconds(time)));
        assert_eq!([2, 3, 7, 8, 9, 900].map(lasts), [false, true, true, false, true, true]);
        for wrong in ["up-at = ['8s']", "down-at = ['3s']\nup-at = ['2s']", "down-at = ['3']"] {
            assert!(LabConfig::from_toml(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_mistake_is_named() {
        for (text, words) in [
            ("speed=1", "no 'speed'"),
            ("delay=20", "delay: '20' is not a time"),
            ("loss=3%,loss=4%", "twice"),
            ("burst=3", "loss=1%,burst=5"),
        ] {
            let error = LinkSettings::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        for (text, words) in [
            ("firewall", "no box 'firewall'"),
            ("strip", "needs option"),
            ("strip,option=urgent", "not an option"),
            ("nat,external=here", "not an IP address"),
            ("mss-clamp,mss=0", "between 1 and 65535"),
            ("ecn-bleach,strength=5", "no 'strength'"),
            ("proxy,options=some", "none of drop, syn, pass"),
            ("proxy,way=forward", "must see both directions"),
            ("strip,option=dss,when=after:soon", "does not begin with a number"),
            ("shrink-window", "needs limit"),
            ("ecn-bleach,way=up", "neither forward nor reverse"),
            ("randomise-sequence,way=forward", "must see both directions"),
        ] {
            let error = BoxSettings::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(
            LabConfig::from_toml("[sideways]\nrate='1mbit'").unwrap_err().to_string().contains("sideways")
        );
    }

    #[test]
    fn bursts_keep_the_loss_rate() {
        let mut link = LinkConfig::default();
        LinkSettings::parse("loss=2%,burst=4").unwrap().apply(&mut link).unwrap();
        let Loss::GilbertElliott { to_bad, to_good, .. } = link.loss else { panic!("{:?}", link.loss) };
        assert!((to_bad / (to_bad + to_good) - 0.02).abs() < 1e-9);
        assert!((1.0 / to_good - 4.0).abs() < 1e-9);
    }
}
