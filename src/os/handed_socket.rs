//! A socket that listens in one network and is served from another: who is in the first makes it and
//! hands it over. Connections to it come from the first network, whoever accepts them, so that
//! nothing else has to lead from one to the other.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{io::Interest, net::UnixStream as AsyncStream, time::timeout};

/// Where a session finds what leads out of its network. No one else can listen there first.
pub const PORT: u16 = 8462;

/// How long it may take until the socket is there: milliseconds were seen.
const LIMIT: Duration = Duration::from_secs(20);

/// Both ends of a way for one socket: of who waits for it, and of who makes it.
pub fn way() -> io::Result<(UnixStream, OwnedFd)> {
    let (waiting, making) = UnixStream::pair()?;
    waiting.set_nonblocking(true)?;
    Ok((waiting, making.into()))
}

/// Listens in the network of this process, and hands that over.
pub fn make(way: impl AsFd) -> io::Result<()> {
    make_at(PORT, way)
}

fn make_at(port: u16, way: impl AsFd) -> io::Result<()> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let sockets = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if !message.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("no room for a socket"));
    }
    sendmsg(way, &[IoSlice::new(&[0])], &mut message, SendFlags::empty())?;
    Ok(())
}

/// Waits for the socket.
pub async fn wait(way: UnixStream) -> io::Result<tokio::net::TcpListener> {
    let way = AsyncStream::from_std(way)?;
    let socket = timeout(LIMIT, way.async_io(Interest::READABLE, || take(&way))).await??;
    let socket = TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket)
}

fn take(way: &AsyncStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(way, &mut [IoSliceMut::new(&mut byte)], &mut message, flags)?;
    let found = message.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    found.ok_or_else(|| io::Error::other("the session's network was not set up"))
}

/// Where a session finds it.
pub fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_socket_is_served_by_whom_it_was_handed_to() {
        let (waiting, making) = way().expect("a way");
        // Any port: this network is not a session's own.
        let made = tokio::task::spawn_blocking(move || make_at(0, &making));
        made.await.expect("no panic").expect("made");
        let socket = wait(waiting).await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let mut asking = tokio::net::TcpStream::connect(address).await.expect("connected");
        let (mut serving, _) = socket.accept().await.expect("accepted");
        serving.write_all(b"x").await.expect("sent");
        assert_eq!(asking.read_u8().await.expect("read"), b'x');
    }

    #[tokio::test]
    async fn who_ends_without_one_keeps_nobody_waiting() {
        let (waiting, making) = way().expect("a way");
        drop(making);
        let error = wait(waiting).await.expect_err("nothing came").to_string();
        assert!(error.contains("was not set up"), "{error}");
    }
}
