//! A token is in no line that a server writes, in no answer, and not among a process's words.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::{Place, read};

const TOKEN: &str = "tok-5f1c9e-of-the-server";
const WRONG: &str = "tok-0b77aa-of-somebody";

/// A server whose output goes to files; killed when it is dropped.
struct Logged {
    child: Child,
    address: String,
}

impl Logged {
    fn start(place: &Place, name: &str, words: &[&str]) -> Self {
        let file = |kind: &str| File::create(place.path(&format!("{name}.{kind}"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pdtrim"));
        command.current_dir(place.folder.path()).arg("serve");
        // As much as libraries can be made to say.
        command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1");
        command
            .args(words)
            .args(["--model", "model", "--listen", "127.0.0.1:0"]);
        let child = command.stdout(file("out")).stderr(file("err")).spawn();
        let mut child = child.unwrap();
        let began = Instant::now();
        let address = loop {
            let said = read(&place.path(&format!("{name}.out")));
            if let Some(address) = said.strip_suffix('\n') {
                break address.strip_prefix("http://").unwrap().to_owned();
            }
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_mins(1),
                "{said}"
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        Self { child, address }
    }

    fn ask(&self, token: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        let method = if body.is_empty() { "GET" } else { "POST" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn words(&self) -> Vec<u8> {
        fs::read(format!("/proc/{}/cmdline", self.child.id())).unwrap_or_default()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tokens_are_told_to_nobody() {
    let place = Place::new();
    let file = place.file("secret.txt", TOKEN);
    let wrong = place.file("wrong.txt", WRONG);
    let (file, wrong) = (file.to_str().unwrap(), wrong.to_str().unwrap());
    let prefill = Logged::start(&place, "prefill", &["prefill", "--token-file", file]);
    let url = format!("http://{}", prefill.address);
    let decode = |name, token| {
        let words = [
            "decode",
            "--prefill",
            &url,
            "--prefill-token-file",
            token,
            "--token-file",
            file,
        ];
        Logged::start(&place, name, &words)
    };
    let good = decode("good", file);
    let refused = decode("refused", wrong);
    let body = r#"{"prompt": "w5 w6", "max_tokens": 4, "temperature": 0}"#;
    let mut said = Vec::new();
    for server in [&good, &refused, &prefill] {
        for token in [TOKEN, WRONG] {
            for path in ["/v1/completions", "/v1/chat/completions", "/nowhere"] {
                said.push(server.ask(token, path, body));
                said.push(server.ask(token, path, "{"));
            }
            said.push(server.ask(token, "/metrics", ""));
            said.push(server.ask(token, "/v1/models", ""));
        }
    }
    assert!(said[0].starts_with("HTTP/1.1 200 "), "{}", said[0]);
    assert!(said[8].starts_with("HTTP/1.1 401 "), "{}", said[8]);
    let by_prefill = &said[16];
    assert!(by_prefill.contains("bearer token"), "{by_prefill}");
    for server in [&good, &refused, &prefill] {
        said.push(String::from_utf8_lossy(&server.words()).into_owned());
    }
    drop((good, refused, prefill));
    for name in ["prefill", "good", "refused"] {
        let errors = read(&place.path(&format!("{name}.err")));
        assert!(errors.contains("ready"), "{errors}");
        said.push(errors);
        said.push(read(&place.path(&format!("{name}.out"))));
    }
    for text in said {
        assert!(!text.contains(TOKEN) && !text.contains(WRONG), "{text}");
    }
}
