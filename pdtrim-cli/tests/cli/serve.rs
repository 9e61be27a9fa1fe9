//! `pdtrim serve` as processes of their own: the same tokens, and what happens when one is killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Place;
use super::jumping::JumpingClock;

/// A server; killed when it is dropped.
pub(super) struct Server {
    child: Child,
    address: String,
}

impl Server {
    pub(super) fn start(place: &Place, words: &[&str]) -> Self {
        Self::start_at(place, words, "127.0.0.1:0")
    }

    fn start_at(place: &Place, words: &[&str], listen: &str) -> Self {
        Self::start_with(place, words, listen, |_| {})
    }

    fn start_with(
        place: &Place,
        words: &[&str],
        listen: &str,
        environment: impl FnOnce(&mut Command),
    ) -> Self {
        let first = [
            "--quiet", "serve", words[0], "--model", "model", "--listen", listen,
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_pdtrim"));
        command
            .current_dir(place.folder.path())
            .args(first)
            .args(&words[1..]);
        environment(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { child, address }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn send(&self, token: &str, head: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned());
        body.ok_or_else(|| std::io::Error::other("no answer"))
    }

    fn complete(&self, prompt: &str, tokens: usize) -> std::io::Result<Value> {
        self.complete_with("none", prompt, tokens)
    }

    fn complete_with(&self, token: &str, prompt: &str, tokens: usize) -> std::io::Result<Value> {
        let body = json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0}).to_string();
        let answer = self.send(token, "POST /v1/completions", &body)?;
        serde_json::from_str(&answer).map_err(std::io::Error::other)
    }

    pub(super) fn text_with(&self, token: &str, prompt: &str, tokens: usize) -> String {
        let answer = self.complete_with(token, prompt, tokens).unwrap();
        let text = answer["choices"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    fn text(&self, prompt: &str, tokens: usize) -> String {
        self.text_with("none", prompt, tokens)
    }

    fn metric(&self, line: &str) -> f64 {
        self.metric_with("none", line)
    }

    /// Waits until no request holds anything.
    pub(super) fn comes_to_rest(&self, token: &str) {
        let began = Instant::now();
        while self.metric_with(token, "pdtrim_requests_in_flight") > 0.5 {
            let waited = began.elapsed();
            assert!(waited < Duration::from_mins(1), "requests are held");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn metric_with(&self, token: &str, line: &str) -> f64 {
        let text = self.send(token, "GET /metrics", "").unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Memory that the process holds, in KiB, where the system says.
    pub(super) fn resident(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 64 prompts of 1 to 24 words.
fn prompts() -> Vec<String> {
    let word =
        |number: usize, at: usize| format!("w{}", (number * 7 + at * 13 + number * at) % 90 + 2);
    let prompt = |number: usize| {
        (0..=number % 24)
            .map(|at| word(number, at))
            .collect::<Vec<_>>()
    };
    (0..64).map(|number| prompt(number).join(" ")).collect()
}

/// What `pdtrim generate` says, in one process.
fn generated(place: &Place, prompt: &str, plan: &[&str]) -> String {
    let words = [
        "generate",
        "--model",
        "model",
        "--json",
        "--max-new-tokens",
        "10",
        prompt,
    ];
    let answer = place.json(&[&words, plan].concat());
    answer["text"].as_str().unwrap().to_owned()
}

#[test]
fn two_processes_say_what_one_says_after_64_prompts() {
    let place = Place::new();
    let trimmed = [
        "--prefill-remove",
        "2",
        "--decode-remove",
        "2,3",
        "--kv-blocks",
        "0-1",
        "--kv-first",
        "1",
        "--kv-last",
        "6",
        "--kv-encoding",
        "int8",
        "--boundary",
        "decode",
    ];
    for plan in [&[][..], &trimmed] {
        let prefill = Server::start(&place, &[&["prefill"], plan].concat());
        let url = prefill.url();
        let decode = Server::start(&place, &[&["decode", "--prefill", &url], plan].concat());
        for prompt in prompts() {
            let expected = generated(&place, &prompt, plan);
            assert_eq!(decode.text(&prompt, 10), expected, "{prompt}: {plan:?}");
        }
        let kv = decode.metric("pdtrim_kv_bytes_total");
        assert!(kv > 0.0 && (kv - prefill.metric("pdtrim_kv_bytes_total")).abs() < 0.5);
    }
}

#[test]
fn servers_whose_clock_jumps_say_what_others_say() {
    let Some(clock) = JumpingClock::start() else {
        return;
    };
    let place = Place::new();
    let start = |words: &[&str]| {
        Server::start_with(&place, words, "127.0.0.1:0", |command| clock.set(command))
    };
    let prefill = start(&["prefill", "--deadline", "10"]);
    let decode = start(&["decode", "--prefill", &prefill.url(), "--deadline", "10"]);
    for prompt in prompts().iter().take(16) {
        assert_eq!(decode.text(prompt, 10), generated(&place, prompt, &[]));
    }
    // A jump ends no connection, and none stays longer for it.
    let began = Instant::now();
    let mut silent = TcpStream::connect(decode.address()).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    let mut said = Vec::new();
    silent.read_to_end(&mut said).unwrap();
    let waited = began.elapsed();
    let patience = Duration::from_secs(8)..Duration::from_secs(30);
    assert!(patience.contains(&waited), "closed after {waited:?}");
}

#[test]
fn unified_is_the_plan_of_decode_on_one_machine() {
    let place = Place::new();
    let unified = Server::start(&place, &["unified", "--decode-remove", "2,3"]);
    let plan = ["--prefill-remove", "2,3", "--decode-remove", "2,3"];
    for prompt in prompts().iter().take(6) {
        assert_eq!(unified.text(prompt, 10), generated(&place, prompt, &plan));
    }
}

#[test]
fn a_prefill_that_is_killed_is_an_error_until_it_is_back_and_decode_goes_on() {
    let place = Place::new();
    let mut prefill = Server::start(&place, &["prefill"]);
    let listen = prefill.address.clone();
    let url = prefill.url();
    let decode = Server::start(&place, &["decode", "--prefill", &url, "--deadline", "20"]);
    let before = decode.text("w5 w6", 10);
    std::thread::scope(|scope| {
        let decode = &decode;
        let busy: Vec<_> = (0..24)
            .map(|_| scope.spawn(move || decode.complete("w5 w6 w7", 100)))
            .collect();
        std::thread::sleep(Duration::from_millis(30));
        prefill.kill();
        for request in busy {
            // Whatever was with decode by then is answered, the rest is told why not.
            let answer = request.join().unwrap().unwrap();
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            let tokens = answer["usage"]["completion_tokens"].as_u64();
            assert!(
                tokens == Some(100) || message.contains("prefill at"),
                "{answer}"
            );
        }
    });
    let began = Instant::now();
    let answer = decode.complete("w5 w6", 10).unwrap();
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains(&listen), "{message}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let _back = Server::start_at(&place, &["prefill"], &listen);
    assert_eq!(decode.text("w5 w6", 10), before);
}

#[test]
fn a_decode_that_is_killed_leaves_prefill_as_it_was() {
    let place = Place::new();
    let prefill = Server::start(&place, &["prefill"]);
    let url = prefill.url();
    let mut decode = Server::start(&place, &["decode", "--prefill", &url]);
    std::thread::scope(|scope| {
        let killed = &decode;
        let busy: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| killed.complete("w5 w6 w7", 100).is_ok()))
            .collect();
        std::thread::sleep(Duration::from_millis(20));
        // By its id: the others still hold it.
        let id = killed.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-9", &id])
                .status()
                .unwrap()
                .success()
        );
        // All of them come to an end: an answer, or a connection that is closed.
        for request in busy {
            request.join().unwrap();
        }
    });
    decode.kill();
    let began = Instant::now();
    while prefill.metric("pdtrim_requests_in_flight") > 0.5 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "prefill holds on"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let again = Server::start(&place, &["decode", "--prefill", &url]);
    let expected = generated(&place, "w5 w6", &[]);
    assert_eq!(again.text("w5 w6", 10), expected);
}

#[test]
fn two_hundred_requests_at_once_leave_no_memory_behind() {
    let place = Place::new();
    let prefill = Server::start(&place, &["prefill"]);
    let url = prefill.url();
    let decode = Server::start(&place, &["decode", "--prefill", &url]);
    let prompt = prompts().pop().unwrap();
    let crowd = || {
        std::thread::scope(|scope| {
            let (decode, prompt) = (&decode, &prompt);
            let requests: Vec<_> = (0..200)
                .map(|_| scope.spawn(move || decode.text(prompt, 8)))
                .collect();
            let texts = requests.into_iter().map(|request| request.join().unwrap());
            let texts: std::collections::BTreeSet<String> = texts.collect();
            assert_eq!(texts.len(), 1, "the same prompt, the same text");
        });
    };
    let resident = || Some([decode.resident()?, prefill.resident()?]);
    let Some(mut before) = resident() else {
        eprintln!("skipped: this system does not say how much memory a process holds");
        return;
    };
    // Threads and buffers that are kept from request to request come first: more of them where the machine
    // has other work, but they come to an end.
    let mut crowds = 0;
    loop {
        crowd();
        crowds += 1;
        let now = resident().unwrap();
        let grows = now
            .iter()
            .zip(before)
            .any(|(now, before)| *now > before * 1.01);
        before = now;
        if crowds >= 5 && !grows {
            break;
        }
        assert!(crowds < 20, "each crowd takes more memory: {now:?} KiB");
    }
    (0..3).for_each(|_| crowd());
    crowds += 3;
    let after = resident().unwrap();
    for (before, after) in before.iter().zip(after) {
        assert!(
            after <= before * 1.05,
            "{before} KiB before, {after} KiB after"
        );
    }
    for server in [&decode, &prefill] {
        assert!(server.metric("pdtrim_requests_in_flight") < 0.5);
        let done = server.metric("pdtrim_requests_total{outcome=\"done\"}");
        assert!((done - f64::from(200 * crowds)).abs() < 0.5, "{done}");
    }
}

#[test]
fn what_cannot_be_served_is_said_before_the_model_is_read() {
    let place = Place::new();
    let serve = |words: &[&str]| place.failure(&[&["serve"], words].concat());
    let said = serve(&["prefill", "--model", "nowhere", "--listen", "0.0.0.0:0"]);
    assert!(
        said.contains("0.0.0.0:0") && said.contains("TLS certificate"),
        "{said}"
    );
    let said = serve(&[
        "decode",
        "--model",
        "nowhere",
        "--prefill",
        "http://10.0.0.1:1",
    ]);
    assert!(said.contains("10.0.0.1") && said.contains("TLS"), "{said}");
    let said = serve(&["unified", "--model", "model", "--token-file", "nowhere.txt"]);
    assert!(said.contains("nowhere.txt"), "{said}");
    let first = Server::start(&place, &["unified"]);
    let said = serve(&["unified", "--model", "nowhere", "--listen", &first.address]);
    assert!(said.contains(&first.address), "{said}");
    place.usage(&["serve", "unified", "--tls-cert", "c.pem"]);
    place.usage(&["serve", "unified", "--deadline", "0"]);
    place.usage(&["serve"]);
}

#[test]
fn a_server_stops_when_it_is_asked_to() {
    let place = Place::new();
    let mut unified = Server::start(&place, &["unified"]);
    let id = unified.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let began = Instant::now();
    let status = loop {
        if let Some(status) = unified.child.try_wait().unwrap() {
            break status;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it does not stop"
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn both_ways_are_measured_and_their_bytes_are_what_the_plan_says() {
    let place = Place::new();
    let words = [
        "bench",
        "pd",
        "--model",
        "model",
        "--lengths",
        "20,30",
        "--batches",
        "1,3",
        "--new-tokens",
        "4",
        "--repeats",
        "1",
        "--links",
        "loopback,100mbit/1ms",
        "--decode-remove",
        "2",
        "--kv-encoding",
        "bf16",
        "--page",
        "pd.html",
        "--output",
        "pd.json",
        "--peak-flops",
        "1e12",
        "--peak-bandwidth",
        "1e12",
    ];
    let table = place.stdout(&words);
    assert!(
        table.contains("dense, one process") && table.contains("100 Mbit/s"),
        "{table}"
    );
    let object: Value = serde_json::from_str(&super::read(&place.path("pd.json"))).unwrap();
    let rows = object["rows"].as_array().unwrap();
    // Two lengths, two batches, dense and trimmed, one process and two with two links.
    assert_eq!(rows.len(), 2 * 2 * 2 * 3);
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("ttft") > 0.0 && number("tpot") > 0.0);
        assert!((number("kv_bytes") - number("kv_bytes_expected")).abs() < 0.5);
        let positions = number("prompt_tokens");
        let (blocks, element) = match row["model"].as_str() {
            Some("dense") => (5.0, 4.0),
            _ if row["link"].is_null() => (4.0, 4.0),
            _ => (4.0, 2.0),
        };
        assert!(
            (number("kv_bytes") - blocks * positions * 2.0 * 8.0 * 2.0 * element).abs() < 0.5,
            "{row}"
        );
        assert_eq!(row["link"].is_null(), number("wire_bytes") < 0.5);
    }
    assert!(super::read(&place.path("pd.html")).contains("modelled by a program"));
    let said = place.failure(&["bench", "pd", "--model", "model", "--lengths", "200"]);
    assert!(
        said.contains("--lengths 200") && said.contains("128"),
        "{said}"
    );
    place.usage(&["bench", "pd", "--links", "fast"]);
}
