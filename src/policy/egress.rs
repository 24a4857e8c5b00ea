//! Where sessions may connect to. Decides by name and address; knows nothing of sockets.
//!
//! A name that is allowed counts with the addresses that it has at that moment: those of this
//! machine, of its networks and of its neighbours are refused all the same, unless an address that
//! is listed covers them. Otherwise whoever owns a listed name could lead sessions to them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Patterns at most.
pub const MOST_PATTERNS: usize = 1000;

/// Characters of a host name.
const LONGEST_NAME: usize = 253;

/// Ports of a pattern that names none.
const WEB: [u16; 2] = [80, 443];

/// Where sessions may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// To wherever the machine can.
    #[default]
    Open,
    /// To these hosts only, beside the API gateway; there may be none.
    Hosts(Vec<Pattern>),
}

/// Hosts, and ports on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    host: Host,
    /// `None` is 80 and 443.
    port: Option<Port>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Any,
    This(u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// This name, in lower case.
    Name(String),
    /// Names that end with this, which begins with a dot.
    Below(String),
    /// Addresses that have so many first bits in common with this one.
    Network(IpAddr, u8),
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = split(text)?;
        let port = match port {
            None => None,
            Some("*") => Some(Port::Any),
            Some(port) => {
                let number = port.parse().ok().filter(|port| *port > 0);
                Some(Port::This(number.ok_or_else(|| format!("{port:?} is no port"))?))
            }
        };
        Ok(Self { host: host.parse()?, port, text: text.to_owned() })
    }
}

/// A host, and a port if there is one: `host`, `host:port`, `[address]:port`.
fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has no ]")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("must have nothing but a port behind ]".to_owned()),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))),
        // An IPv6 address without a port.
        _ => Ok((text, None)),
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr =
                address.parse().map_err(|_| format!("{address:?} is no address"))?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= most);
            return Ok(Self::Network(
                address,
                bits.ok_or(format!("must have from 0 to {most} bits"))?,
            ));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let is_label = |label: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !label.is_empty() && label.len() <= 63 && label.chars().all(inner)
        };
        if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
            return Err(
                "must be a host name, *.NAME, an address or a network, with :PORT if it is \
                        not 80 and 443"
                    .to_owned(),
            );
        }
        let name = name.to_ascii_lowercase();
        Ok(if below { Self::Below(format!(".{name}")) } else { Self::Name(name) })
    }
}

/// Why a session may not connect to somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing that is listed fits.
    #[error("not listed in policy.egress")]
    NotListed,
    /// It is on this machine, in its networks, or nowhere that is public.
    #[error("its address is not a public one, and is not listed in policy.egress itself")]
    NotPublic,
}

impl Egress {
    /// Whether sessions have no network but what they are given.
    pub fn is_closed(&self) -> bool {
        *self != Self::Open
    }

    /// Whether a name may be connected to, if its addresses may.
    pub fn check_name(&self, name: &str, port: u16) -> Result<(), Refused> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.any(port, |host| match host {
            Host::Name(known) => *known == name,
            Host::Below(end) => name.ends_with(end.as_str()),
            Host::Network(..) => false,
        })
        .then_some(())
        .ok_or(Refused::NotListed)
    }

    /// Whether an address may be connected to that somebody has named himself.
    pub fn check_address(&self, address: IpAddr, port: u16) -> Result<(), Refused> {
        self.lists(address, port).then_some(()).ok_or(Refused::NotListed)
    }

    /// Whether an address may be connected to that an allowed name has.
    pub fn check_resolved(&self, address: IpAddr, port: u16) -> Result<(), Refused> {
        let allowed = is_public(address) || self.lists(address, port);
        allowed.then_some(()).ok_or(Refused::NotPublic)
    }

    fn lists(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        self.any(port, |host| match host {
            Host::Network(network, bits) => covers(network.to_canonical(), *bits, address),
            Host::Name(_) | Host::Below(_) => false,
        })
    }

    fn any(&self, port: u16, fits: impl Fn(&Host) -> bool) -> bool {
        match self {
            Self::Open => true,
            Self::Hosts(patterns) => patterns.iter().any(|pattern| {
                let port_fits = match pattern.port {
                    None => WEB.contains(&port),
                    Some(Port::Any) => true,
                    Some(Port::This(this)) => this == port,
                };
                port_fits && fits(&pattern.host)
            }),
        }
    }
}

fn covers(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let (network, address, all) = match (network, address) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (u128::from(u32::from(one)), u128::from(u32::from(other)), 32)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => (u128::from(one), u128::from(other), 128),
        _ => return false,
    };
    let rest = all - u32::from(bits.min(128)).min(all);
    rest >= 128 || network >> rest == address >> rest
}

/// Networks that are nobody's in public, by the registries of special-purpose addresses (RFC 6890).
const SPECIAL_V4: [(Ipv4Addr, u8); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What IPv6 has for public addresses; all else is special.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Within those: Teredo and its neighbours, documentation, and 6to4, in which any IPv4 address may be.
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is one of the public network.
fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    match address {
        IpAddr::V4(_) => {
            !SPECIAL_V4.iter().any(|(network, bits)| covers((*network).into(), *bits, address))
        }
        IpAddr::V6(_) => {
            let (public, bits) = PUBLIC_V6;
            covers(public.into(), bits, address)
                && !SPECIAL_V6
                    .iter()
                    .any(|(network, bits)| covers((*network).into(), *bits, address))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(patterns: &[&str]) -> Egress {
        Egress::Hosts(patterns.iter().map(|text| text.parse().expect("a pattern")).collect())
    }

    #[test]
    fn names_fit_as_they_are_listed() {
        let egress = hosts(&["Example.com", "*.pypi.org", "git.example.net:22", "any.example:*"]);
        for (name, port, allowed) in [
            ("example.com", 443, true),
            ("EXAMPLE.com.", 80, true),
            ("example.com", 8080, false),
            ("www.example.com", 443, false),
            ("notexample.com", 443, false),
            ("files.pypi.org", 443, true),
            ("pypi.org", 443, false),
            ("evilpypi.org", 443, false),
            ("git.example.net", 22, true),
            ("git.example.net", 443, false),
            ("any.example", 1, true),
            ("", 443, false),
        ] {
            assert_eq!(egress.check_name(name, port).is_ok(), allowed, "{name}:{port}");
        }
        assert!(hosts(&[]).check_name("example.com", 443).is_err());
        assert!(Egress::Open.check_name("anything", 1).is_ok());
    }

    #[test]
    fn addresses_of_this_machine_and_its_networks_are_refused_unless_they_are_listed() {
        let egress = hosts(&["inner.example", "10.1.2.0/24", "[fd00::7]:5432", "192.168.0.9:*"]);
        for (address, port, allowed) in [
            ("10.1.2.3", 443, true),
            ("::ffff:10.1.2.3", 443, true),
            ("10.1.3.3", 443, false),
            ("fd00::7", 5432, true),
            ("fd00::7", 443, false),
            ("192.168.0.9", 25, true),
            ("127.0.0.1", 443, false),
            ("169.254.169.254", 80, false),
            ("::ffff:169.254.169.254", 80, false),
            ("0.0.0.0", 80, false),
            ("100.64.0.1", 443, false),
            ("::1", 443, false),
            ("fe80::1", 443, false),
            ("64:ff9b::a9fe:a9fe", 80, false),
            ("2002:7f00:1::", 443, false),
            ("8.8.8.8", 443, true),
            ("2606:4700::1111", 443, true),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(egress.check_resolved(address, port).is_ok(), allowed, "{address}:{port}");
        }
        // Who names an address himself needs it to be listed, a public one too.
        let public = "8.8.8.8".parse().expect("an address");
        assert_eq!(egress.check_address(public, 443), Err(Refused::NotListed));
        assert!(hosts(&["0.0.0.0/0"]).check_address(public, 443).is_ok());
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a..b",
            "http://a",
            "a/b",
            "a:0",
            "a:x",
            "10.0.0.0/33",
            "[::1",
            "a b",
            "ex*mple.com",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            drop(text.parse::<Pattern>());
        }

        #[test]
        fn a_network_covers_what_shares_its_bits(one: u32, other: u32, bits in 0_u8..=32) {
            let same = (0..32).take(usize::from(bits)).all(|bit| (one ^ other) << bit >> 31 == 0);
            let (one, other) = (Ipv4Addr::from(one), Ipv4Addr::from(other));
            prop_assert_eq!(covers(one.into(), bits, other.into()), same);
        }
    }
}
