//! What may happen between two servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of the bytes that come back from the server, on each connection in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Pass,
    /// One bit of this byte is turned over.
    Flip(usize),
    /// The connection ends after so many bytes.
    Cut(usize),
    /// Nothing comes any more after so many bytes.
    Stall(usize),
}

/// Starts a proxy of `server`; connections past the last fate pass.
pub(crate) async fn start(server: SocketAddr, fates: Vec<Fate>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let number = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let number = number.fetch_add(1, Ordering::SeqCst);
            let fate = fates.get(number).copied().unwrap_or(Fate::Pass);
            tokio::spawn(connect(client, server, fate));
        }
    });
    address
}

async fn connect(client: TcpStream, server: SocketAddr, fate: Fate) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let forth = async move {
        // Whoever ends first ends both.
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    tokio::select! {
        () = forth => {}
        () = back(from_server, to_client, fate) => {}
    }
}

async fn back(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    fate: Fate,
) {
    let (mut passed, mut buffer) = (0, vec![0; 16 << 10]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut buffer[..read];
        match fate {
            Fate::Flip(at) if (passed..passed + read).contains(&at) => bytes[at - passed] ^= 4,
            Fate::Cut(after) if passed + read > after => return,
            Fate::Stall(after) if passed + read > after => std::future::pending().await,
            _ => {}
        }
        passed += read;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
