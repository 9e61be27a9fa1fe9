//! A server on this machine that answers as the hub does, for tests.

#![allow(dead_code, reason = "each test file uses a part of this module")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The commit that the server is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server holds.
#[derive(Clone, Default)]
pub(crate) struct FakeHub {
    /// Files of `org/name`, with contents.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    /// The token it asks for.
    pub(crate) token: Option<&'static str>,
    /// A file whose download answers 500 with a text instead.
    pub(crate) broken: Option<&'static str>,
    /// How long it waits before each KiB of a body.
    pub(crate) pause: Duration,
}

/// A running server; its thread ends with the test process.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start(hub: FakeHub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hub, log) = (hub.clone(), Arc::clone(&log));
                thread::spawn(move || hub.answer(stream, &log));
            }
        });
        Self { endpoint, requests }
    }

    /// `METHOD path` of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl FakeHub {
    fn answer(&self, mut stream: TcpStream, log: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let Some(first) = head.first() else { return };
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let path = target.split('?').next().unwrap();
        log.lock().unwrap().push(format!("{method} {path}"));
        let is_allowed = self.token.is_none_or(|token| {
            head.iter()
                .any(|line| line.eq_ignore_ascii_case(&format!("authorization: Bearer {token}")))
        });
        let (status, headers, body) = if is_allowed {
            self.route(method, path)
        } else {
            plain(401, "Unauthorized")
        };
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
        );
        if method != "HEAD" {
            for part in body.chunks(1 << 10) {
                thread::sleep(self.pause);
                let _ = stream.write_all(part);
            }
        }
        // Read to the end, so that closing does not reset the connection under the answer.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = reader.read_to_end(&mut Vec::new());
    }

    fn route(&self, method: &str, path: &str) -> (u16, String, Vec<u8>) {
        let known = ["main", COMMIT, "refs/convert/parquet"];
        // A dataset of the same name holds the same files; a client may write a branch with or without `%2F`.
        let path = path.replace("%2F", "/");
        let path = path.replacen("/api/datasets/", "/api/models/", 1).replacen(
            "/datasets/org/name/",
            "/org/name/",
            1,
        );
        let path = path.as_str();
        if let Some(revision) = path.strip_prefix("/api/models/org/name/tree/") {
            if !known.contains(&revision) {
                return plain(404, "RevisionNotFound");
            }
            let entry = |(path, bytes): &(&str, Vec<u8>)| serde_json::json!({"type": "file", "oid": "0", "size": bytes.len(), "path": path});
            let entries: Vec<_> = self.files.iter().map(entry).collect();
            return (200, String::new(), serde_json::to_vec(&entries).unwrap());
        }
        let Some(rest) = path.strip_prefix("/org/name/resolve/") else {
            return plain(404, "RepoNotFound");
        };
        let inside = |revision: &&str| rest.strip_prefix(*revision)?.strip_prefix('/');
        let Some(file) = known.iter().find_map(inside) else {
            return plain(404, "RevisionNotFound");
        };
        let Some((name, bytes)) = self.files.iter().find(|(name, _)| *name == file) else {
            return plain(404, "EntryNotFound");
        };
        if method == "GET" && self.broken == Some(*name) {
            return plain(400, "the store is on fire");
        }
        let etag = format!("{}-{}", name.replace('/', "-"), bytes.len());
        (
            200,
            format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n"),
            bytes.clone(),
        )
    }
}

fn plain(status: u16, code: &str) -> (u16, String, Vec<u8>) {
    (
        status,
        format!("x-error-code: {code}\r\n"),
        code.as_bytes().to_vec(),
    )
}
