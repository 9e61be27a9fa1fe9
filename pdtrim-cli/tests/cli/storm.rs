//! `pdtrim serve` at four times the rate that it holds, among clients that mean no good. The ordinary test takes
//! seconds; `PDTRIM_STORM_SECONDS=3600 cargo test --release --workspace --test cli -- --nocapture storm` is the long
//! form. All traffic is on loopback.

#[path = "storm/client.rs"]
mod client;
#[path = "storm/record.rs"]
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use self::client::{Kind, Outcome, TOKEN, Visit};
use self::record::{Memory, Record};
use super::Place;
use super::serve::Server;

/// What the servers take on: little, so that a storm is one.
const LIMITS: [&str; 10] = [
    "--max-in-flight",
    "8",
    "--max-batch",
    "8",
    "--max-waiting",
    "32",
    "--max-wait",
    "2",
    "--deadline",
    "20",
];
/// What an answer may take: its wait, and then the deadline, which also counts the wait.
const LONGEST: Duration = Duration::from_secs(22);
/// How long a server waits for a head.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many times the rate that the server holds.
const TIMES: f64 = 4.0;
/// Clients at once; a real network has more, this process has no more files.
const CLIENTS: usize = 400;

fn seconds() -> Duration {
    let seconds = std::env::var("PDTRIM_STORM_SECONDS");
    let seconds = seconds.map_or(3.0, |seconds| seconds.parse().unwrap());
    Duration::from_secs_f64(seconds)
}

/// Numbers of a known course (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn kind(&mut self) -> Kind {
        let mut left = self.next() % 100;
        for kind in Kind::ALL {
            match left.checked_sub(kind.share()) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        unreachable!("shares are of a hundred")
    }

    /// Until the next client, where so many come in a second on the mean and none knows of another.
    fn gap(&mut self, rate: f64) -> Duration {
        let chance = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - chance).ln() / rate)
    }
}

/// Texts a second that clients get who wait for one before they ask for the next.
async fn rate(visit: Visit, time: Duration) -> f64 {
    let served = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let served = Arc::clone(&served);
        clients.spawn(async move {
            let mut draw = client;
            while began.elapsed() < time {
                draw += 16;
                let kind = if draw % 32 < 16 {
                    Kind::Whole
                } else {
                    Kind::Streamed
                };
                let (outcome, _) = visit.pay(kind, draw).await;
                assert_eq!(outcome, Outcome::Served);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    served.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Clients come at `rate` for `time`, whether or not those before them are done.
async fn storm(visit: Visit, rate: f64, time: Duration, memory: &mut Memory<'_>) -> Record {
    let (mut draw, mut record, mut clients) = (Draw(7), Record::default(), JoinSet::new());
    let began = Instant::now();
    let mut next = began;
    while began.elapsed() < time {
        tokio::time::sleep_until(next.into()).await;
        next += draw.gap(rate);
        memory.look();
        while let Some(client) = clients.try_join_next() {
            record.add(client.unwrap());
        }
        if clients.len() >= CLIENTS {
            record.held_back += 1;
            continue;
        }
        let (kind, draw) = (draw.kind(), draw.next());
        clients.spawn(async move { (kind, visit.pay(kind, draw).await) });
    }
    while let Some(client) = clients.join_next().await {
        record.add(client.unwrap());
    }
    record
}

#[expect(
    clippy::print_stderr,
    reason = "the table is what the long form is for"
)]
fn weather(name: &str, target: &Server, servers: &[&Server]) {
    let time = seconds();
    let is_long = time >= Duration::from_mins(1);
    let visit = Visit {
        address: target.address().parse().unwrap(),
        tokens: 100,
        hold: Duration::from_secs(if is_long { 30 } else { 1 }),
        hang: Duration::from_mins(1),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let prompt = "w5 w6 w7";
    let before = target.text_with(TOKEN, prompt, 20);
    let rate = runtime.block_on(rate(visit, (time / 6).min(Duration::from_secs(10))));
    let asking: u64 = Kind::ALL
        .into_iter()
        .filter(|kind| kind.asks())
        .map(Kind::share)
        .sum();
    let offered = TIMES * rate;
    let clients = offered * 100.0 / asking as f64;
    let mut memory = Memory::new(servers, time);
    let record = runtime.block_on(storm(visit, clients, time, &mut memory));
    let began = Instant::now();
    let first = target.text_with(TOKEN, prompt, 20);
    let first_took = began.elapsed();
    for server in servers {
        server.comes_to_rest(TOKEN);
    }
    memory.after();
    let turned_away = target.metric_with(TOKEN, "pdtrim_connections_turned_away_total");
    eprintln!(
        "{name}: {:.0} s, holds {rate:.1} texts/s, {offered:.1} asked for each second\n{}{}first text after it in {:.0} ms, \
         {turned_away} connections turned away",
        time.as_secs_f64(),
        record.table(),
        memory.table(),
        1e3 * first_took.as_secs_f64(),
    );
    assert_eq!(first, before, "the first text after the storm");
    record.check(turned_away, LONGEST);
    if visit.hold > 2 * PATIENCE {
        record.check_half_open();
    }
    memory.check();
}

fn token_file(place: &Place) -> String {
    let path = place.file("token", TOKEN);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_storm_on_one_process_sheds_what_it_cannot_hold_and_passes() {
    let place = Place::new();
    let token = token_file(&place);
    let words = [&["unified", "--token-file", &token], &LIMITS[..]].concat();
    let unified = Server::start(&place, &words);
    weather("unified", &unified, &[&unified]);
}

#[test]
fn a_storm_on_two_processes_sheds_what_they_cannot_hold_and_passes() {
    let place = Place::new();
    let token = token_file(&place);
    let prefill = Server::start(
        &place,
        &["prefill", "--token-file", &token, "--deadline", "20"],
    );
    let url = prefill.url();
    let with_token = ["--prefill-token-file", &token, "--token-file", &token];
    let words = [&["decode", "--prefill", &url], &with_token[..], &LIMITS[..]].concat();
    let decode = Server::start(&place, &words);
    weather("decode", &decode, &[&decode, &prefill]);
}
