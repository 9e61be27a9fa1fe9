//! Clients of every kind, and what becomes of each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const TOKEN: &str = "a-token-of-the-storm";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Whole,
    Streamed,
    /// Reads its stream a little at a time.
    Slow,
    /// Goes away in the middle of its stream.
    Cancelled,
    /// Goes away before anything comes.
    Gone,
    Oversized,
    Malformed,
    WrongToken,
    /// Sends half of a head, and nothing more.
    HalfOpen,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Whole,
        Self::Streamed,
        Self::Slow,
        Self::Cancelled,
        Self::Gone,
        Self::Oversized,
        Self::Malformed,
        Self::WrongToken,
        Self::HalfOpen,
    ];

    /// How many of a hundred clients.
    pub(crate) fn share(self) -> u64 {
        match self {
            Self::Whole => 34,
            Self::Streamed => 30,
            Self::Slow | Self::Gone | Self::Malformed | Self::WrongToken => 5,
            Self::Cancelled => 12,
            Self::Oversized => 3,
            Self::HalfOpen => 1,
        }
    }

    /// Whether it asks for a text that the server would generate.
    pub(crate) fn asks(self) -> bool {
        self <= Self::Gone
    }
}

/// What became of a client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The whole answer.
    Served,
    /// 429 or 503.
    Shed,
    /// Another 4xx.
    Refused(u16),
    /// The server closed the connection without an answer.
    Closed,
    /// The client went away, as it meant to.
    Left,
    /// Anything else: what no client should meet.
    Broken(String),
}

/// Where clients go, and how long they hold what they hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) address: SocketAddr,
    /// New tokens of a text.
    pub(crate) tokens: usize,
    /// How long a half-open connection is held by its client.
    pub(crate) hold: Duration,
    /// Longer than anything may take.
    pub(crate) hang: Duration,
}

impl Visit {
    /// One client from its connection to its end.
    pub(crate) async fn pay(self, kind: Kind, draw: u64) -> (Outcome, Duration) {
        let began = Instant::now();
        let outcome = tokio::time::timeout(self.hang, self.talk(kind, draw)).await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Closed,
            Err(_) => Outcome::Broken(format!("{kind:?} hangs")),
        };
        (outcome, began.elapsed())
    }

    async fn talk(self, kind: Kind, draw: u64) -> std::io::Result<Outcome> {
        let connected = TcpStream::connect(self.address).await;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => return Ok(Outcome::Broken(format!("cannot connect: {error}"))),
        };
        let request = self.request(kind, draw);
        // What is refused by its head is not read to its end: the answer counts, not the sending.
        let sent = stream.write_all(&request).await;
        match kind {
            Kind::Gone => return Ok(Outcome::Left),
            Kind::Cancelled => return cancelled(&mut stream).await,
            Kind::HalfOpen => {
                let end = tokio::time::timeout(self.hold, answer(&mut stream, false)).await;
                return Ok(end.map_or(Outcome::Left, |end| outcome(kind, &end)));
            }
            _ => {}
        }
        let said = answer(&mut stream, kind == Kind::Slow).await;
        if said.is_empty() {
            sent?;
        }
        Ok(outcome(kind, &said))
    }

    fn request(self, kind: Kind, draw: u64) -> Vec<u8> {
        let prompt = format!("w{} w{} w5 w6 w7 w8", draw % 90 + 2, draw / 90 % 90 + 2);
        let stream = matches!(kind, Kind::Streamed | Kind::Slow | Kind::Cancelled);
        let body = json!({"prompt": prompt, "max_tokens": self.tokens, "temperature": 0, "stream": stream});
        let body = match kind {
            Kind::Oversized => json!({"prompt": "w5 ".repeat(70_000)})
                .to_string()
                .into_bytes(),
            Kind::Malformed => malformed(draw),
            _ => body.to_string().into_bytes(),
        };
        let token = match kind {
            Kind::WrongToken => "not-the-token",
            _ => TOKEN,
        };
        let length = body.len();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        if kind == Kind::HalfOpen {
            return head.as_bytes()[..draw as usize % 60].to_vec();
        }
        [head.as_bytes(), &body].concat()
    }
}

fn malformed(draw: u64) -> Vec<u8> {
    match draw % 6 {
        0 => b"{\"prompt\":".to_vec(),
        1 => b"{\"prompt\":\"\xff\"}".to_vec(),
        2 => [b"{\"prompt\":".as_slice(), &b"[".repeat(2000)].concat(),
        3 => b"{\"prompt\":\"w5\",\"max_tokens\":18446744073709551615}".to_vec(),
        4 => b"{\"prompt\":[4294967295]}".to_vec(),
        _ => b"[]".to_vec(),
    }
}

/// Everything that the server says, or what it said before the connection was reset.
async fn answer(stream: &mut TcpStream, slowly: bool) -> String {
    let (mut said, mut some) = (Vec::new(), vec![0; if slowly { 512 } else { 16 << 10 }]);
    while let Ok(read @ 1..) = stream.read(&mut some).await {
        said.extend(&some[..read]);
        if slowly {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Reads the first piece of the text, and goes away.
async fn cancelled(stream: &mut TcpStream) -> std::io::Result<Outcome> {
    let (mut said, mut some) = (Vec::new(), [0; 512]);
    loop {
        let read = stream.read(&mut some).await?;
        said.extend(&some[..read]);
        let text = String::from_utf8_lossy(&said);
        if text.contains("data: ") {
            return Ok(Outcome::Left);
        }
        if read == 0 {
            return Ok(outcome(Kind::Cancelled, &text));
        }
    }
}

/// What an answer, read to its end, says.
fn outcome(kind: Kind, said: &str) -> Outcome {
    let Some(status) = said.split(' ').nth(1) else {
        return Outcome::Closed;
    };
    match status.parse() {
        Ok(429 | 503) => Outcome::Shed,
        Ok(status @ 400..=499) => Outcome::Refused(status),
        Ok(200) if is_whole(kind, said) => Outcome::Served,
        _ => {
            let end: String = said.chars().rev().take(300).collect();
            let end: String = end.chars().rev().collect();
            Outcome::Broken(format!("{kind:?}: {status}: …{end}"))
        }
    }
}

fn is_whole(kind: Kind, said: &str) -> bool {
    let Some((_, body)) = said.split_once("\r\n\r\n") else {
        return false;
    };
    match kind {
        Kind::Whole => serde_json::from_str(body)
            .is_ok_and(|answer: Value| answer["choices"][0]["text"].is_string()),
        Kind::Streamed | Kind::Slow => body.contains("data: [DONE]"),
        _ => false,
    }
}
