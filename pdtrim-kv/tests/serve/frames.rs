//! HTTP/2 by the frame, for clients that no library would be.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
pub(crate) const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;

/// A client's connection.
pub(crate) struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// Connects, with a window of so many bytes for each answer.
    pub(crate) async fn connect(address: SocketAddr, window: u32) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut frames = Self { stream };
        let mut settings = vec![0, 4];
        settings.extend(window.to_be_bytes());
        frames.send(SETTINGS, 0, 0, &settings).await;
        frames
    }

    /// Sends one frame; a server that has closed the connection does not take it.
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await.is_ok()
    }

    /// Posts `body` as JSON; without one the request is left open.
    pub(crate) async fn post(&mut self, stream: u32, path: &str, body: Option<&str>) -> bool {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/json"),
        ] {
            // Literal, not indexed, name and value as they are.
            block.push(0);
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        let mut sent = self.send(HEADERS, 4, stream, &block).await;
        if let Some(body) = body {
            sent &= self.send(DATA, 1, stream, body.as_bytes()).await;
        }
        sent
    }

    pub(crate) async fn reset(&mut self, stream: u32) -> bool {
        self.send(RESET, 0, stream, &8_u32.to_be_bytes()).await
    }

    /// Lets so many bytes come.
    pub(crate) async fn open_window(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW, 0, stream, &bytes.to_be_bytes()).await;
    }

    /// The next frame's kind, stream and payload; `None` at the connection's end.
    pub(crate) async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], stream, payload))
    }

    /// Reads to the connection's end; the kinds of the frames on the way.
    pub(crate) async fn until_end(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        let end = async {
            while let Some((kind, _, _)) = self.next().await {
                kinds.push(kind);
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), end).await;
        assert!(ended.is_ok(), "the server closes the connection");
        kinds
    }

    /// The next answer's data on `stream` to its end.
    pub(crate) async fn answer(&mut self, stream: u32) -> Vec<u8> {
        let mut data = Vec::new();
        let end = async {
            while let Some((kind, on, payload)) = self.next().await {
                if (kind, on) == (DATA, stream) {
                    data.extend(payload);
                }
                if String::from_utf8_lossy(&data).contains("[DONE]") {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), end).await;
        assert!(ended.is_ok(), "the answer comes");
        data
    }
}
