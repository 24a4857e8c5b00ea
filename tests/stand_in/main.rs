//! `messages-stand-in`: the stand-in for the Messages API as a process of its own.
//!
//! Prints one line, `listening http://ADDRESS`, once it can be talked to, and ends on SIGTERM or SIGINT.
//! What it answers is described in `mod.rs` and `script.rs`.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::signal::unix::{SignalKind, signal};

#[path = "mod.rs"]
mod stand_in;

const USAGE: &str =
    "usage: messages-stand-in [--listen 127.0.0.1:PORT]    (port 0 picks a free one)";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(addr) = listen_address(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    // Installed before the address is announced: whoever has read it may signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let api = stand_in::StandIn::start_on(addr).await?;
    writeln!(std::io::stdout(), "listening {}", api.url())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    api.shutdown().await?;
    Ok(())
}

/// The address asked for; `None` if it was help that was asked for.
fn listen_address(
    mut args: impl Iterator<Item = String>,
) -> Result<Option<SocketAddr>, Box<dyn Error>> {
    let mut addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    while let Some(arg) = args.next() {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        match flag {
            "--help" | "-h" => return Ok(None),
            "--listen" => {
                let value = inline.or_else(|| args.next()).ok_or(USAGE)?;
                addr = value.parse().map_err(|e| format!("--listen {value}: {e}"))?;
            }
            _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
        }
    }
    Ok(Some(addr))
}
