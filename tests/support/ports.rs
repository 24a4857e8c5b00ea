//! Ports that programs of tests listen on although somebody has to know them before.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// An address of this machine to listen on, also again after a while. Its port is none of those
/// that connections get by themselves: one of these may be taken by any connection meanwhile.
pub fn free_address() -> SocketAddr {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(0);
    for _ in 0..1000 {
        let address = (Ipv4Addr::LOCALHOST, fastrand::u16(10_000..first.max(20_000))).into();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}
