//! What became of all clients, and of the servers' memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::client::{Kind, Outcome};
use crate::serve::Server;

/// Between two looks at the servers' memory.
const LOOK: Duration = Duration::from_millis(200);
/// What a server may hold after a storm beside what it held in the storm's first quarter.
const SHARE: f64 = 1.25;
const FIXED_KIB: f64 = 8192.0;

/// Counts of one kind of clients.
#[derive(Default)]
struct Counts {
    sent: usize,
    shed: usize,
    refused: usize,
    closed: usize,
    left: usize,
    /// How long those took that were served, in seconds.
    served: Vec<f32>,
}

#[derive(Default)]
pub(super) struct Record {
    kinds: BTreeMap<Kind, Counts>,
    /// What nobody should meet.
    broken: Vec<String>,
    /// Clients that were not sent: too many were there.
    pub(super) held_back: usize,
}

impl Record {
    pub(super) fn add(&mut self, (kind, (outcome, took)): (Kind, (Outcome, Duration))) {
        let counts = self.kinds.entry(kind).or_default();
        counts.sent += 1;
        match outcome {
            Outcome::Served => counts.served.push(took.as_secs_f32()),
            Outcome::Shed => counts.shed += 1,
            Outcome::Refused(_) => counts.refused += 1,
            Outcome::Closed => counts.closed += 1,
            Outcome::Left => counts.left += 1,
            Outcome::Broken(_) => {}
        }
        let allowed = match outcome {
            Outcome::Served => matches!(kind, Kind::Whole | Kind::Streamed | Kind::Slow),
            Outcome::Left => matches!(kind, Kind::Cancelled | Kind::Gone | Kind::HalfOpen),
            Outcome::Refused(413) => kind == Kind::Oversized,
            Outcome::Refused(400 | 422) => kind == Kind::Malformed,
            Outcome::Refused(401) => kind == Kind::WrongToken,
            // Hyper's answer to a head that does not come.
            Outcome::Refused(408) => kind == Kind::HalfOpen,
            Outcome::Refused(_) | Outcome::Broken(_) => false,
            Outcome::Shed | Outcome::Closed => true,
        };
        if !allowed {
            self.broken.push(format!("{kind:?}: {outcome:?}"));
        }
    }

    /// A row for each kind.
    pub(super) fn table(&self) -> String {
        let mut table = format!(
            "{:<12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}\n",
            "clients", "sent", "served", "shed", "refused", "closed", "left", "p50 ms", "p99 ms"
        );
        for (kind, counts) in &self.kinds {
            let ms = |share| match percentile(&counts.served, share) {
                Some(seconds) => format!("{:.0}", 1e3 * seconds),
                None => String::new(),
            };
            let _ = writeln!(
                table,
                "{:<12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
                format!("{kind:?}"),
                counts.sent,
                counts.served.len(),
                counts.shed,
                counts.refused,
                counts.closed,
                counts.left,
                ms(0.5),
                ms(0.99)
            );
        }
        let _ = writeln!(table, "{} more were not sent", self.held_back);
        table
    }

    /// Every kind met what it had to, and nothing else.
    pub(super) fn check(&self, turned_away: f64, longest: Duration) {
        let some: Vec<_> = self.broken.iter().take(10).collect();
        assert!(
            self.broken.is_empty(),
            "{} times: {some:#?}",
            self.broken.len()
        );
        let sum = |count: fn(&Counts) -> usize| self.kinds.values().map(count).sum::<usize>();
        assert!(sum(|counts| counts.served.len()) > 0, "some are served");
        assert!(
            sum(|counts| counts.shed) > 0,
            "four times the rate does not fit"
        );
        assert!(
            sum(|counts| counts.refused) > 0,
            "malformed requests were sent"
        );
        // Who is turned away may miss the reason; who sends more than may be sent, too. Nobody else is cut off.
        let open = self.kinds.iter().filter(|(kind, _)| kind.asks());
        let closed: usize = open.map(|(_, counts)| counts.closed).sum();
        assert!(
            closed as f64 <= turned_away,
            "{closed} closed, {turned_away} turned away"
        );
        let served = self.kinds.values().flat_map(|counts| &counts.served);
        let slowest = served.copied().fold(0.0, f32::max);
        assert!(slowest < longest.as_secs_f32(), "{slowest} s");
    }

    /// The server ended them, not their clients.
    pub(super) fn check_half_open(&self) {
        let half_open = &self.kinds[&Kind::HalfOpen];
        assert!(half_open.closed > 0 && half_open.left == 0);
    }
}

fn percentile(values: &[f32], share: f64) -> Option<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let place = (share * sorted.len() as f64) as usize;
    sorted
        .get(place.min(sorted.len().saturating_sub(1)))
        .copied()
}

/// Memory of each server, in KiB, where the system says.
pub(super) struct Memory<'a> {
    servers: &'a [&'a Server],
    began: Instant,
    looked: Instant,
    quarter: Duration,
    rows: Vec<Row>,
}

/// One server's memory: before the storm, at most in its first quarter, at most in all of it, and after it.
#[derive(Clone, Copy)]
struct Row {
    before: f64,
    quarter: f64,
    peak: f64,
    after: f64,
}

impl<'a> Memory<'a> {
    pub(super) fn new(servers: &'a [&'a Server], time: Duration) -> Self {
        let now = Instant::now();
        let rows = servers.iter().filter_map(|server| server.resident());
        Self {
            servers,
            began: now,
            looked: now,
            quarter: time / 4,
            rows: rows
                .map(|before| Row {
                    before,
                    quarter: before,
                    peak: before,
                    after: before,
                })
                .collect(),
        }
    }

    /// Takes notice of what the servers hold, now and then.
    pub(super) fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let is_first_quarter = self.began.elapsed() < self.quarter;
        for (row, server) in self.rows.iter_mut().zip(self.servers) {
            let now = server.resident().unwrap_or_default();
            row.peak = row.peak.max(now);
            if is_first_quarter {
                row.quarter = row.quarter.max(now);
            }
        }
    }

    pub(super) fn after(&mut self) {
        for (row, server) in self.rows.iter_mut().zip(self.servers) {
            row.after = server.resident().unwrap_or_default();
        }
    }

    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        if self.rows.is_empty() {
            table += "memory: this system does not say how much a process holds\n";
        }
        for row in &self.rows {
            let _ = writeln!(
                table,
                "memory, MiB: {:.1} before, {:.1} most in the first quarter, {:.1} most, {:.1} after",
                row.before / 1024.0,
                row.quarter / 1024.0,
                row.peak / 1024.0,
                row.after / 1024.0
            );
        }
        table
    }

    pub(super) fn check(&self) {
        for row in &self.rows {
            let most = SHARE * row.quarter + FIXED_KIB;
            assert!(row.after <= most, "{} KiB after, at most {most}", row.after);
        }
    }
}
