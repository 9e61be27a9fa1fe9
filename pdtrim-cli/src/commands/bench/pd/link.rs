//! A slow link between two processes of one machine: a model of one, in this process.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep_until};

/// Bytes that travel together.
const PACKET: usize = 16 << 10;
/// How far ahead of the link its sender may write: what a router would hold.
const QUEUE: Duration = Duration::from_millis(20);

/// How much a link carries, and how late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Link {
    /// Bits a second; nothing limits it without.
    pub(crate) bits_per_second: Option<f64>,
    /// Seconds that a byte is under way in one direction.
    pub(crate) delay: f64,
}

impl Link {
    pub(super) fn is_loopback(self) -> bool {
        self.bits_per_second.is_none() && self.delay <= 0.0
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "loopback" {
            return Ok(Self {
                bits_per_second: None,
                delay: 0.0,
            });
        }
        let refused =
            || format!("expected loopback, or RATE/DELAY such as 10gbit/1ms, found `{text}`");
        let (rate, delay) = text.split_once('/').ok_or_else(refused)?;
        let number = |text: &str, units: &[(&str, f64)]| {
            let found = units.iter().find_map(|(unit, factor)| {
                let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
                (number.is_finite() && number >= 0.0).then_some(number * factor)
            });
            found.ok_or_else(refused)
        };
        let rate = number(rate, &[("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)])?;
        let delay = number(delay, &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0)])?;
        if rate <= 0.0 {
            return Err(refused());
        }
        Ok(Self {
            bits_per_second: Some(rate),
            delay,
        })
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bits_per_second {
            None => f.write_str("loopback"),
            Some(rate) => write!(f, "{} Mbit/s, {} ms", rate / 1e6, self.delay * 1e3),
        }
    }
}

/// Puts `link` in front of `server`; returns where it begins.
pub(super) async fn start(server: SocketAddr, link: Link) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.context("cannot listen for the modelled link")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(join(client, server, link));
        }
    });
    Ok(address)
}

async fn join(client: TcpStream, server: SocketAddr, link: Link) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    // Packets leave when the link says so, not when the kernel has enough of them.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, link) => {}
        () = carry(from_server, to_client, link) => {}
    }
}

/// One direction.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: Link) {
    let (sender, mut under_way) = unbounded_channel::<(Instant, Vec<u8>)>();
    let delay = Duration::from_secs_f64(link.delay);
    let send = async move {
        let mut free = Instant::now();
        let mut buffer = vec![0; PACKET];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let takes = link
                .bits_per_second
                .map_or(0.0, |rate| read as f64 * 8.0 / rate);
            free = free.max(Instant::now()) + Duration::from_secs_f64(takes);
            if sender
                .send((free + delay, buffer[..read].to_vec()))
                .is_err()
            {
                return;
            }
            sleep_until(free.checked_sub(QUEUE).unwrap_or(free)).await;
        }
    };
    let receive = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(send, receive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_as_people_say_them() {
        let link: Link = "2.5gbit/300us".parse().unwrap();
        assert_eq!(link.bits_per_second, Some(2.5e9));
        assert!((link.delay - 3e-4).abs() < 1e-12);
        assert_eq!(link.to_string(), "2500 Mbit/s, 0.3 ms");
        assert!("loopback".parse::<Link>().unwrap().is_loopback());
        for wrong in [
            "1gbit",
            "fast/1ms",
            "0gbit/1ms",
            "1gbit/-1ms",
            "1gbit/1",
            "",
        ] {
            let said = wrong.parse::<Link>().unwrap_err();
            assert!(said.contains("RATE/DELAY"), "{said}");
        }
    }

    #[tokio::test]
    async fn bytes_arrive_whole_and_no_sooner_than_the_link_allows() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|at| at as u8).collect();
        let bytes = sent.clone();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        });
        // 200 kB at 16 Mbit/s take 0.1 s; 50 ms pass on the way.
        let link = "16mbit/50ms".parse().unwrap();
        let began = Instant::now();
        let proxy = start(address, link).await.unwrap();
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{} bytes", received.len());
        assert!(began.elapsed() >= Duration::from_millis(149));
    }
}
