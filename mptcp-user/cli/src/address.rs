//! Addresses as people write them, and their resolution.

use anyhow::{Context, Result, bail};
use mptcp_datapath::interface::index_of;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// A peer: a name or address, and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
}

/// Where to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

/// Which address families of a name are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) =
                    rest.split_once("]:").ok_or("an IPv6 address with port is [ADDRESS]:PORT")?;
                let (address, _) = split_scope(host)?;
                address.parse::<Ipv6Addr>().map_err(|_| format!("{host} is not an IPv6 address"))?;
                (host, port)
            }
            None => text.rsplit_once(':').ok_or("a port is missing: HOST:PORT")?,
        };
        if host.is_empty() {
            return Err("a host is missing: HOST:PORT".into());
        }
        if host.contains(':') && !text.starts_with('[') {
            return Err("an IPv6 address with port is written in brackets: [ADDRESS]:PORT".into());
        }
        Ok(Self { host: host.into(), port: port_number(port)? })
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port_number(text)?)));
        }
        let Target { host, port } = text.parse()?;
        if host.contains('%') {
            return scoped(&host, port).map(Self);
        }
        let address: IpAddr = match host.as_str() {
            "*" => Ipv6Addr::UNSPECIFIED.into(),
            host => host.parse().map_err(|_| format!("{host} is not an address of this host"))?,
        };
        Ok(Self(SocketAddr::new(address, port)))
    }
}

/// An address and the name of the interface whose link it is on, if there is one: `fe80::1%eth0`.
fn split_scope(host: &str) -> Result<(&str, Option<&str>), String> {
    match host.split_once('%') {
        Some((_, "")) => Err(format!("an interface is missing: {host}NAME")),
        Some((address, interface)) => Ok((address, Some(interface))),
        None => Ok((host, None)),
    }
}

/// An address with an interface, as a socket address.
fn scoped(host: &str, port: u16) -> Result<SocketAddr, String> {
    let (address, interface) = split_scope(host)?;
    let ip: Ipv6Addr = address.parse().map_err(|_| format!("{address} is not an IPv6 address"))?;
    let interface = interface.unwrap_or_default();
    let index = index_of(interface).ok_or_else(|| format!("there is no interface named {interface}"))?;
    Ok(SocketAddrV6::new(ip, port, 0, index).into())
}

/// A local address with a port, which may be 0: `ADDRESS:PORT`, `[IPV6]:PORT` or `[IPV6%INTERFACE]:PORT`.
pub(crate) fn local_address(text: &str) -> Result<SocketAddr, String> {
    let parts = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    match parts {
        Some((host, port)) if host.contains('%') => {
            scoped(host, port.parse().map_err(|_| format!("{port:?} is not a port"))?)
        }
        _ => text.parse().map_err(|_| "not ADDRESS:PORT or [IPV6]:PORT".into()),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("{text:?} is not a port (1 to 65535)")),
    }
}

impl Target {
    /// All addresses of the target in the order in which they should be tried.
    pub(crate) async fn resolve(&self, family: Family) -> Result<Vec<SocketAddr>> {
        if self.host.contains('%') {
            return Ok(vec![scoped(&self.host, self.port).map_err(anyhow::Error::msg)?]);
        }
        let found: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .with_context(|| {
                format!(
                    "the name {} can't be resolved: check its spelling, or give an address instead",
                    self.host
                )
            })?
            .collect();
        let mut wanted = Vec::with_capacity(found.len());
        for address in found {
            let fits = match family {
                Family::Any => true,
                Family::V4 => address.is_ipv4(),
                Family::V6 => address.is_ipv6(),
            };
            // getaddrinfo may give an address once per socket type.
            if fits && !wanted.contains(&address) {
                wanted.push(address);
            }
        }
        if wanted.is_empty() {
            bail!("{} has no {family} address: leave out the option that asks for one", self.host);
        }
        Ok(wanted)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Any => "usable",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_name_their_interface() {
        let Ok(ListenAddress(address)) = "[fe80::1%lo]:80".parse() else { panic!("no address") };
        assert_eq!(address.to_string(), "[fe80::1%1]:80");
        assert_eq!(
            local_address("[fe80::1%1]:0"),
            Ok(SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, 1).into())
        );
        assert_eq!(local_address("192.0.2.1:0"), Ok("192.0.2.1:0".parse().unwrap()));
        assert!("[fe80::1%lo]:80".parse::<Target>().is_ok());
        for wrong in ["[fe80::1%]:80", "[fe80::1%no-such-interface]:80", "[192.0.2.1%lo]:80"] {
            assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong}");
        }
        assert!(local_address("[fe80::1%lo]:x").is_err() && local_address("192.0.2.1").is_err());
    }

    #[test]
    fn targets_are_names_and_addresses_of_both_families() {
        let target = |host: &str, port| Ok(Target { host: host.into(), port });
        assert_eq!("example.org:80".parse(), target("example.org", 80));
        assert_eq!("192.0.2.1:5000".parse(), target("192.0.2.1", 5000));
        assert_eq!("[2001:db8::1]:5000".parse(), target("2001:db8::1", 5000));
        for wrong in [
            "",
            ":",
            "host",
            "host:",
            ":80",
            "host:0",
            "host:65536",
            "2001:db8::1:5000",
            "[::1]",
            "[x]:1",
            "[::1]:",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_alone_listens_on_all_addresses() {
        assert_eq!("5000".parse(), Ok(ListenAddress("[::]:5000".parse().expect("valid"))));
        assert_eq!("*:5000".parse(), Ok(ListenAddress("[::]:5000".parse().expect("valid"))));
        assert_eq!("10.0.0.1:5".parse(), Ok(ListenAddress("10.0.0.1:5".parse().expect("valid"))));
        assert_eq!("[fd00::1]:5".parse(), Ok(ListenAddress("[fd00::1]:5".parse().expect("valid"))));
        for wrong in ["", "0", "65536", "localhost:5", "10.0.0.1"] {
            assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn addresses_resolve_to_themselves_and_families_filter() {
        let target: Target = "[::1]:5000".parse().expect("valid");
        assert_eq!(
            target.resolve(Family::Any).await.expect("literal"),
            ["[::1]:5000".parse().expect("valid")]
        );
        let error = target.resolve(Family::V4).await.expect_err("no IPv4 address");
        assert!(error.to_string().contains("IPv4"), "{error}");
    }
}
