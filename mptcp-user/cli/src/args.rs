//! The whole command line at a glance.
#![allow(rustdoc::broken_intra_doc_links)] // help texts write IPv6 addresses in brackets

use super::address::{ListenAddress, Target, local_address};
use super::sandbox::{Needs, Sandbox, raise_locked_memory};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Parser, Subcommand, ValueEnum};
use mptcp_control::SubflowEnd;
use mptcp_proto::{
    ConnectionConfig, EcnPolicy, InterfaceRule, InterfaceUse, KeepAlive, Opportunism as OpportunismPolicy,
    Prefix, SubflowStart, Versions,
};
use mptcp_user::stack::{AttachMode, Stack, StackBuilder};
use std::path::PathBuf;
use std::time::Duration;

const AFTER_HELP: &str = "\
Examples:
  mptcp interfaces                          which interfaces can be used, and why not
  mptcp listen 5000 > copy.img              on one host, as root
  mptcp connect HOST:5000 --file disk.img   on the other
  mptcp ss                                  both connections, and the paths they use

Exit codes:
  0    everything was transferred and both sides closed the connection
  1    this host: missing privileges, no usable interface, address in use,
       a file or standard output that can't be read or written
  2    wrong usage of the command line
  3    the connection could not be set up: name unknown, refused,
       unreachable, no answer in time
  4    the connection was set up and broke before both sides had closed it
  130  ended by Ctrl-C (SIGINT); 143 by SIGTERM. The first signal closes
       connections properly, a second one ends the process at once
  141  ended by SIGPIPE: the reader of the output has gone. If the caller
       ignores that signal: 1, and a message
Interfaces are left clean in every case.";

/// Multipath TCP in user space, accelerated by XDP: one connection over all interfaces of this host.
#[derive(Debug, Parser)]
#[command(name = "mptcp", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Args {
    /// Say more on standard error: once for progress, twice for details, three times for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait for a connection; its bytes go to standard output, standard input goes to the peer
    Listen(ListenArgs),
    /// Open a connection; standard input goes to the peer, what it answers goes to standard output
    Connect(ConnectArgs),
    /// Show which interfaces can be used, how, and why the others can't. Works without root
    Interfaces(InterfacesArgs),
    /// Show the connections of all mptcp processes of this host, and their subflows
    Ss(SsArgs),
    /// Show what has happened in all mptcp processes of this host, by the names of the kernel's counters
    Counters(CountersArgs),
    /// Use subflows of running connections only while no others work, or again like any other
    Backup(BackupArgs),
    /// Emulate a network between two Ethernet interfaces: rate, delay, loss, queues, middleboxes
    Lab(super::lab_command::LabArgs),
}

/// Wait for a connection; its bytes go to standard output, standard input goes to the peer.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mptcp listen 5000 > received            receive a file over all interfaces, then end
  mptcp listen 5000 --file page.html -k   give a file to everyone who connects
  mptcp listen 192.0.2.1:5000 -i eth0 -i wlan0 --json --output received
  mptcp listen 5000 --announce-port 5001  take subflows to the other addresses on port 5001

A listener with nothing to send ends its side after the peer has. The kernel keeps all other ports of these
interfaces.")]
pub(crate) struct ListenArgs {
    /// Where to listen: PORT, ADDRESS:PORT or [IPV6]:PORT, with the interface for an address of one link
    /// ([fe80::1%eth0]:PORT). A port alone means all addresses of both families
    #[arg(value_name = "[ADDRESS:]PORT")]
    pub(crate) address: ListenAddress,
    /// Serve one connection after the other until a signal ends it. Standard input is not read then: give
    /// each peer a file with --file
    #[arg(short, long)]
    pub(crate) keep_open: bool,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

/// Open a connection; standard input goes to the peer, what it answers goes to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mptcp connect example.org:5000 --file disk.img     send a file over all interfaces
  mptcp connect '[2001:db8::1]:5000' < request       IPv6, data from standard input
  mptcp connect 192.0.2.1:5000 -i eth0 -i wlan0 --pcap out.pcapng --json=stats.json
  mptcp connect example.org:5000 --interface-rule 'wlan0=prefer,wwan0=backup'
                                                     Wi-Fi, and cellular when that fails
  mptcp connect example.org:5000 --interface-rule 'eth*=allow,*=deny'
                                                     nothing but wired interfaces
  mptcp connect example.org:5000 --path-manager ndiffports --ndiffports 4
                                                     four subflows, for routers with equal-cost paths

When the input ends, this side of the connection is closed (like `nc -N`) and the peer's answer is still received.")]
pub(crate) struct ConnectArgs {
    /// Peer: HOST:PORT, ADDRESS:PORT or [IPV6]:PORT, with the interface for an address of one link
    /// ([fe80::1%eth0]:PORT). All addresses of a name are tried in turn
    #[arg(value_name = "HOST:PORT")]
    pub(crate) target: Target,
    /// Local address and port of the first subflow: ADDRESS:PORT or [IPV6]:PORT (port 0: any)
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = local_address)]
    pub(crate) local: Option<std::net::SocketAddr>,
    /// Use IPv4 addresses of the name only
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,
    /// Use IPv6 addresses of the name only
    #[arg(short = '6')]
    pub(crate) ipv6: bool,
    /// Give up if the connection isn't set up after so many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

/// Show which interfaces can be used, how, and why the others can't.
#[derive(Debug, clap::Args)]
pub(crate) struct InterfacesArgs {
    /// Print a JSON array instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the connections of all mptcp processes of this host, and their subflows.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Processes are found by their sockets in /run/mptcp (or the directory that MPTCP_RUNTIME_DIR names), in whatever network
namespace they are. Receive and send queues are those of the connection; of a subflow the octets in flight are shown.")]
pub(crate) struct SsArgs {
    /// Print all that is known, as a JSON array of processes
    #[arg(long)]
    pub(crate) json: bool,
    /// Only the process with this number
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Only connections with a subflow from or to this port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Show it again every second, or so many seconds, until a signal ends it
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub(crate) watch: Option<Duration>,
}

/// Show what has happened in all mptcp processes of this host, by the names of the kernel's counters.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Names that begin with Tcp, TcpExt or MPTcpExt count what the kernel counts under the same name (`nstat -az`); those
that begin with Mptcp only this stack counts, and those that begin with Xdp its program in the kernel.")]
pub(crate) struct CountersArgs {
    /// Also those that are zero
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Say what each of them counts
    #[arg(short, long)]
    pub(crate) explain: bool,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Only those of the process with this number
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

/// Use subflows of running connections only while no others work, or again like any other.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mptcp backup wwan0              keep cellular in reserve, for all connections of all mptcp processes
  mptcp backup --off wwan0        use it like the others again
  mptcp backup 192.0.2.1:43210    one subflow, by its address and port on this host (`mptcp ss` shows them)
  mptcp backup --pid 4711 192.0.2.1

The peers are asked to do the same (MP_PRIO). Subflows that come later are not affected: for those there are --backup
and --interface-rule of connect and listen.")]
pub(crate) struct BackupArgs {
    /// Which subflows, by their end on this host: an interface, ADDRESS, ADDRESS:PORT or [IPV6]:PORT
    #[arg(value_name = "INTERFACE|ADDRESS[:PORT]")]
    pub(crate) of: SubflowEnd,
    /// No backups any more
    #[arg(long)]
    pub(crate) off: bool,
    /// Print what was found as a JSON array of processes
    #[arg(long)]
    pub(crate) json: bool,
    /// Only connections of the process with this number
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

/// Where data comes from and goes to.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// Send this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Write what is received to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// At the end, write statistics as one line of JSON to standard error, or to FILE: octets, seconds, and
    /// all that is known of the connection and each subflow
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// No progress bar
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Properties of each connection.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Largest number of subflows at once, the first one included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32), default_value_t = 8)]
    pub(crate) max_subflows: u16,
    /// Most addresses that the peer may announce (ADD_ADDR) for subflows to be opened to; 0: none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=31), default_value_t = 8)]
    pub(crate) max_addresses: u16,
    /// Which subflow takes the next data
    #[arg(long, value_name = "NAME", value_parser = explained(ConnectionConfig::schedulers()), default_value_t = ConnectionConfig::default().scheduler)]
    pub(crate) scheduler: String,
    /// Action when the peer's window is full because of data on a slow path, while a faster path has nothing
    /// to send
    #[arg(long, value_enum, default_value_t = Opportunism::Off)]
    pub(crate) opportunism: Opportunism,
    /// Congestion control algorithm
    #[arg(long, value_name = "NAME", value_parser = explained(ConnectionConfig::congestion_algorithms()), default_value_t = ConnectionConfig::default().congestion)]
    pub(crate) congestion: String,
    /// Which subflows are opened: one for each pair of addresses (full-mesh), several on the first pair from
    /// different ports (ndiffports), those beside the first path in reserve (backup), one at a time
    /// (single-path), none by this side, the peer being told all addresses (signal) or nothing (none)
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ConnectionConfig::path_managers()), default_value_t = ConnectionConfig::default().path_manager)]
    pub(crate) path_manager: String,
    /// Subflows that the path manager ndiffports opens between one pair of addresses, the first one included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32), default_value_t = 2)]
    pub(crate) ndiffports: u16,
    /// Make do with one subflow until the connection has lasted so many seconds (and two round trips) or
    /// carried 10 kB, so that short ones don't pay for paths they have no use for; 0: never wait
    #[arg(long, value_name = "SECONDS", value_parser = seconds_or_none, default_value = "0.01")]
    pub(crate) subflow_delay: Duration,
    /// Use of interfaces (repeatable, or separated by commas): NAME=deny, metered (only while nothing else
    /// works), backup, allow or prefer. NAME may end with *; the first rule that fits decides
    #[arg(long = "interface-rule", value_name = "NAME=USE", value_delimiter = ',')]
    pub(crate) interface_rules: Vec<InterfaceRule>,
    /// Use this interface as backup, and ask the peer to do so, too: short for --interface-rule NAME=backup
    /// (repeatable)
    #[arg(long = "backup", value_name = "NAME")]
    pub(crate) backup: Vec<String>,
    /// Leave a path, while another one works, when nothing sent over it is acknowledged for so many seconds
    /// after it should have been
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0.5")]
    pub(crate) path_timeout: Duration,
    /// Announce this host's other addresses with this port, and take subflows there
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) announce_port: Option<u16>,
    /// Don't announce this host's other addresses, whatever the path manager says
    #[arg(long)]
    pub(crate) no_announce: bool,
    /// Ask the peer not to open subflows to the address and port that the connection begins with (flag C)
    #[arg(long)]
    pub(crate) no_join_initial: bool,
    /// Ask for DSS checksums, which find middleboxes that change the data
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Version of Multipath TCP: 1 (RFC 8684), 0 (RFC 6824), or what the peer asks for (and 1 when we ask)
    #[arg(long, value_enum, default_value_t = Version::Auto)]
    pub(crate) mptcp_version: Version,
    /// Speak regular TCP, neither offer nor accept Multipath TCP
    #[arg(long)]
    pub(crate) no_multipath: bool,
    /// Most octets in the send buffer (suffixes K, M, G); it begins small and grows with the paths [default:
    /// 16M]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) send_buffer: Option<usize>,
    /// Most octets in the receive buffer (suffixes K, M, G), which is what the peer may have under way; it
    /// begins small and grows with what is read in a round trip [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) receive_buffer: Option<usize>,
    /// Give the connection up when the peer has acknowledged nothing on any path, or there was no address to
    /// send from, for so many seconds; the default is that of the Linux kernel, long enough for tunnels and
    /// changes of trains
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "900")]
    pub(crate) user_timeout: Duration,
    /// Tell the peer the user timeout, and let the longer one of both sides count (RFC 5482)
    #[arg(long)]
    pub(crate) negotiate_user_timeout: bool,
    /// Probe paths over which nothing has been heard for so many seconds, and close those that don't answer:
    /// finds a peer that vanished while both sides were silent
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) keep_alive: Option<Duration>,
    /// Longest silence, in seconds, after which a path is checked: routers forget idle connections. The first
    /// ones come 30 and 60 seconds after anything was heard, or 5 where a stream broke off. Where the peer
    /// does not answer, another subflow takes the place of the silent one, from another port. An idle subflow
    /// costs 14 packets in the first hour, and five in each later one (`off`: none)
    #[arg(long, value_name = "SECONDS", value_parser = seconds_or_off, default_value = "1500")]
    pub(crate) path_check: Duration,
    /// Explicit congestion notification: routers mark packets instead of dropping them
    #[arg(long, value_enum, default_value_t = Ecn::Accept)]
    pub(crate) ecn: Ecn,
}

/// Interfaces, and how they are used.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Interfaces")]
pub(crate) struct StackArgs {
    /// Use this interface (repeatable; default: all that are up and have a routable address)
    #[arg(short, long = "interface", value_name = "NAME")]
    pub(crate) interfaces: Vec<String>,
    /// How XDP programs are attached
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,
    /// Let network cards write packets to this program's memory by themselves, where the mode is native and
    /// the driver can
    #[arg(long)]
    pub(crate) zero_copy: bool,
    /// Look for packets all the time instead of sleeping when there are none: the shortest delays, for a
    /// processor that is always busy
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// Leave by any route over the interfaces in use, also where the host's routing policy leads elsewhere:
    /// past a VPN that takes all traffic, for example. Routes that refuse (prohibit, blackhole,
    /// unreachable) are obeyed
    #[arg(long)]
    pub(crate) any_route: bool,
    /// Most octets that all connections may hold together (suffixes K, M, G). As they become scarce, windows
    /// become smaller
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1G")]
    pub(crate) memory: usize,
    /// Once all is set up, give up all privileges and system calls that are not needed any more:
    /// docs/privileges.md
    #[arg(long, value_enum, env = "MPTCP_SANDBOX", hide_env = true, default_value_t = Sandbox::On)]
    pub(crate) sandbox: Sandbox,
    /// Accept connections and subflows from these peers, and open them to these, only (repeatable): an
    /// address or a prefix such as 192.0.2.0/24. The longest prefix decides, and --deny-peer before
    /// --allow-peer where they are equal
    #[arg(long = "allow-peer", value_name = "PREFIX")]
    pub(crate) allow_peers: Vec<Prefix>,
    /// Accept no connections and subflows from these peers, and open none to them (repeatable): they get no
    /// answer. The packet filter of this host (nftables, iptables) does not see what this stack receives
    #[arg(long = "deny-peer", value_name = "PREFIX")]
    pub(crate) deny_peers: Vec<Prefix>,
    /// Record all segments of this stack, both directions, all interfaces, as pcapng (tcpdump on this host
    /// does not see what XDP takes)
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Write what is decided, and why, as lines of JSON: which subflow carries which data, what is sent again
    /// elsewhere, fallbacks, paths that are suspected dead
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// How long a destination that does not like Multipath TCP is connected to with regular TCP; doubles when
    /// it fails again after that. 0: never
    #[arg(long, value_name = "SECONDS", value_parser = seconds_or_none, default_value = "3600")]
    pub(crate) blackhole_timeout: Duration,
}

/// How XDP programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// The better one for each interface
    Auto,
    /// In the driver, before the kernel allocates anything
    Native,
    /// In the kernel, behind the driver: works everywhere, takes super-segments whole
    Generic,
}

/// Versions of Multipath TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Version {
    /// Both, as the peer asks
    Auto,
    /// RFC 6824
    #[value(name = "0")]
    Zero,
    /// RFC 8684
    #[value(name = "1")]
    One,
}

/// Reaction to a slow path that holds up the peer's window (RFC 8041 section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Opportunism {
    /// Wait for it
    Off,
    /// Send that data on the faster path, too
    Retransmit,
    /// And halve the congestion window of the slow path
    Penalise,
}

/// Explicit congestion notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Ecn {
    /// Never
    Off,
    /// When the peer asks for it
    Accept,
    /// Ask for it: accurate ECN, or the classic one if the peer knows no other
    Ask,
}

impl ConnectionArgs {
    fn rules(&self) -> Vec<InterfaceRule> {
        let backup = |name: &String| InterfaceRule { pattern: name.clone(), usage: InterfaceUse::Backup };
        self.backup.iter().map(backup).chain(self.interface_rules.iter().cloned()).collect()
    }

    /// The engine's choices for one connection.
    pub(crate) fn config(&self) -> ConnectionConfig {
        let default = ConnectionConfig::default();
        ConnectionConfig {
            multipath: !self.no_multipath,
            versions: match self.mptcp_version {
                Version::Auto => Versions::Auto,
                Version::Zero => Versions::Zero,
                Version::One => Versions::One,
            },
            checksum: self.checksum,
            max_subflows: usize::from(self.max_subflows),
            max_addresses: usize::from(self.max_addresses),
            ndiffports: usize::from(self.ndiffports),
            subflow_start: SubflowStart { age: self.subflow_delay, ..default.subflow_start },
            interface_rules: self.rules(),
            path_timeout: self.path_timeout,
            announce_port: self.announce_port,
            announce_addresses: !self.no_announce,
            no_join_initial: self.no_join_initial,
            send_buffer: self.send_buffer.unwrap_or(default.send_buffer),
            receive_buffer: self.receive_buffer.unwrap_or(default.receive_buffer),
            congestion: self.congestion.clone(),
            scheduler: self.scheduler.clone(),
            opportunism: match self.opportunism {
                Opportunism::Off => OpportunismPolicy::Off,
                Opportunism::Retransmit => OpportunismPolicy::Retransmit,
                Opportunism::Penalise => OpportunismPolicy::Penalise,
            },
            path_manager: self.path_manager.clone(),
            user_timeout: self.user_timeout,
            path_check: Some(self.path_check).filter(|longest| !longest.is_zero()),
            ecn: match self.ecn {
                Ecn::Off => EcnPolicy::Off,
                Ecn::Accept => EcnPolicy::Accept,
                Ecn::Ask => EcnPolicy::Ask,
            },
            negotiate_user_timeout: self.negotiate_user_timeout,
            keep_alive: self.keep_alive.map(|idle| {
                let usual = KeepAlive::default();
                KeepAlive { idle, interval: usual.interval.min(idle), ..usual }
            }),
            ..default
        }
    }
}

impl StackArgs {
    /// Gives up what is not needed any more, now that the stack is made and listens. Listeners and subflows
    /// use `port`.
    pub(crate) fn enter_sandbox(&self, connection: &ConnectionArgs, port: Option<u16>) {
        self.sandbox.enter(Needs::of_stack(connection.announce_port.into_iter().chain(port)));
    }

    /// A stack of these interfaces, whose connections are made from `connection` unless said otherwise.
    pub(crate) fn builder(&self, connection: ConnectionConfig) -> StackBuilder {
        raise_locked_memory();
        let mut builder = Stack::builder();
        builder.interfaces = self.interfaces.clone();
        builder.mode = match self.mode {
            Mode::Auto => AttachMode::Auto,
            Mode::Native => AttachMode::Native,
            Mode::Generic => AttachMode::Generic,
        };
        builder.zero_copy = self.zero_copy;
        builder.pcap = self.pcap.clone();
        builder.events = self.events.clone();
        builder.busy_poll = self.busy_poll;
        builder.any_route = self.any_route;
        builder.control = true;
        builder.endpoint.blackhole_timeout = self.blackhole_timeout;
        self.allow_peers.iter().for_each(|prefix| builder.endpoint.peers.allow(*prefix));
        self.deny_peers.iter().for_each(|prefix| builder.endpoint.peers.deny(*prefix));
        builder.endpoint.memory = self.memory as u64;
        builder.connection = connection;
        builder
    }
}

/// The error for a command line that chooses the protocol's version by the flag that prints the version of
/// the program.
pub(crate) fn old_version_flag(words: impl IntoIterator<Item = String>) -> Option<String> {
    let words: Vec<String> = words.into_iter().skip(1).take_while(|word| word != "--").collect();
    let first = words.iter().position(|word| matches!(&word[..], "connect" | "listen"))?;
    let mut words = words[first..].iter();
    let value = loop {
        let word = words.next()?;
        match word.strip_prefix("--version") {
            Some("") => break words.next()?.as_str(),
            Some(rest) => break rest.strip_prefix('=')?,
            None => {}
        }
    };
    matches!(value, "0" | "1" | "auto").then(|| {
        format!(
            "--version prints the version of this program; to choose the version of Multipath TCP, use --mptcp-version {value}"
        )
    })
}

/// One of these names, each with what it is for.
fn explained(names: impl Iterator<Item = &'static str>) -> PossibleValuesParser {
    PossibleValuesParser::new(
        names.map(|name| PossibleValue::new(name).help(ConnectionConfig::purpose(name).unwrap_or_default())),
    )
}

/// A number of octets with an optional binary suffix, at least 4 KiB.
fn size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        rest if rest.ends_with(['K', 'k']) => (&rest[..rest.len() - 1], 10),
        rest if rest.ends_with(['M', 'm']) => (&rest[..rest.len() - 1], 20),
        rest if rest.ends_with(['G', 'g']) => (&rest[..rest.len() - 1], 30),
        rest => (rest, 0),
    };
    let number: usize =
        digits.parse().map_err(|_| "not a number of octets such as 4M or 65536".to_owned())?;
    let octets = number.checked_mul(1 << shift).filter(|&octets| octets <= 16 << 30);
    match octets.ok_or("at most 16G")? {
        0..4096 => Err("at least 4K".into()),
        octets => Ok(octets),
    }
}

/// A positive number of seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match seconds {
        0.001..=1_000_000.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("between 0.001 and 1000000 seconds".into()),
    }
}

/// A number of seconds, or 0.
fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

/// A number of seconds, or `off`.
fn seconds_or_off(text: &str) -> Result<Duration, String> {
    if text == "off" { Ok(Duration::ZERO) } else { seconds_or_none(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_interface_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_scheduler_and_congestion_control_says_what_it_is_for() {
        let mut command = Args::command();
        let help = command.find_subcommand_mut("connect").expect("known").render_long_help().to_string();
        // Where lines are wrapped depends on the terminal.
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for name in ConnectionConfig::schedulers().chain(ConnectionConfig::congestion_algorithms()) {
            let purpose = ConnectionConfig::purpose(name).expect("explained");
            assert!(words.contains(&format!("- {name}: {purpose}")), "{name} in {help}");
        }
    }

    #[test]
    fn the_protocol_has_a_version_and_so_has_the_program() {
        let parse = |words: &str| Args::try_parse_from(words.split(' '));
        for words in
            ["mptcp --version", "mptcp -V", "mptcp listen --version", "mptcp connect --version host:1"]
        {
            let shown = parse(words).expect_err("is no command");
            assert_eq!(shown.kind(), clap::error::ErrorKind::DisplayVersion, "{words}");
        }
        for (word, expected) in [("0", Versions::Zero), ("1", Versions::One), ("auto", Versions::Auto)] {
            let Command::Connect(args) =
                parse(&format!("mptcp connect --mptcp-version {word} host:1")).expect("valid").command
            else {
                panic!("connect")
            };
            assert_eq!(args.connection.config().versions, expected);
        }
        let old = |words: &str| old_version_flag(words.split(' ').map(str::to_owned));
        for words in [
            "mptcp connect --version 0 host:1",
            "mptcp connect --version=0 host:1",
            "mptcp -v listen -k 5000 --version 0",
        ] {
            let said = old(words).expect("the old form");
            assert!(said.contains("--mptcp-version 0"), "{said}");
        }
        for words in [
            "mptcp --version",
            "mptcp connect --version",
            "mptcp connect --version host:1",
            "mptcp listen --mptcp-version 0 5000",
            "mptcp connect host:1 -- --version 0",
        ] {
            assert_eq!(old(words), None, "{words}");
        }
    }

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        for wrong in ["", "M", "1", "-4K", "17G", "99999999999999999999G", "4X"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_are_checked_unless_that_is_switched_off() {
        let usual = ConnectionConfig::default().path_check;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (words, expected) in [
            ("mptcp connect host:1", usual),
            ("mptcp connect --path-check 10 host:1", seconds(10)),
            ("mptcp connect --path-check off host:1", None),
            ("mptcp connect --path-check 0 host:1", None),
        ] {
            let Command::Connect(args) = Args::try_parse_from(words.split(' ')).expect("valid").command
            else {
                panic!("connect")
            };
            assert_eq!(args.connection.config().path_check, expected, "{words}");
        }
        assert!(usual.is_some());
        assert!(Args::try_parse_from(["mptcp", "connect", "--path-check", "seldom", "host:1"]).is_err());
    }

    #[test]
    fn rules_are_lists_and_backup_is_one_of_them() {
        let words =
            ["mptcp", "connect", "--interface-rule", "w*=prefer,eth1=deny", "--backup", "wwan0", "host:1"];
        let Command::Connect(args) = Args::try_parse_from(words).expect("valid").command else {
            panic!("connect")
        };
        let rules: Vec<_> =
            args.connection.config().interface_rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["wwan0=backup", "w*=prefer", "eth1=deny"]);
        let wrong = Args::try_parse_from(["mptcp", "connect", "--interface-rule", "eth0=fast", "host:1"]);
        assert!(
            wrong.expect_err("no such use").to_string().contains("deny, metered, backup, allow or prefer")
        );
    }

    #[test]
    fn opportunism_reaches_the_engine_and_is_off_unless_asked_for() {
        for (words, expected) in [
            (&["mptcp", "connect", "host:1"][..], OpportunismPolicy::default()),
            (&["mptcp", "connect", "--opportunism", "off", "host:1"], OpportunismPolicy::Off),
            (&["mptcp", "connect", "--opportunism", "retransmit", "host:1"], OpportunismPolicy::Retransmit),
            (&["mptcp", "connect", "--opportunism", "penalise", "host:1"], OpportunismPolicy::Penalise),
        ] {
            let Command::Connect(args) = Args::try_parse_from(words).expect("valid").command else {
                panic!("connect")
            };
            assert_eq!(args.connection.config().opportunism, expected);
        }
    }

    #[test]
    fn json_takes_a_file_only_with_an_equals_sign() {
        let parsed = Args::try_parse_from(["mptcp", "connect", "--json", "host:1"]).expect("valid");
        let Command::Connect(args) = parsed.command else { panic!("connect") };
        assert_eq!(args.data.json, Some(PathBuf::from("-")));
        let parsed = Args::try_parse_from(["mptcp", "listen", "--json=out", "5000"]).expect("valid");
        let Command::Listen(args) = parsed.command else { panic!("listen") };
        assert_eq!(args.data.json, Some(PathBuf::from("out")));
    }
}
