//! The two stages that are measured: prefill is a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pdtrim_core::model::Llama;
use pdtrim_core::{KvFill, KvPlan, PerStage};
use pdtrim_eval::Mode;
use pdtrim_kv::serve::{Generator, Limits, Metrics, PrefillAddress, RemotePrefill, Served};

use super::link::{self, Link};
use crate::args::{ModelArgs, PlanArgs};
use crate::session::{Bound, Session};

/// A way to run requests.
pub(super) struct Subject {
    /// `dense` or `trimmed`.
    pub(super) name: &'static str,
    /// Without it, both stages run in this process.
    pub(super) link: Option<Link>,
    pub(super) served: Arc<Served>,
    pub(super) generator: Generator,
}

impl Subject {
    pub(super) fn label(&self) -> String {
        match self.link {
            None => format!("{}, one process", self.name),
            Some(link) => format!("{}, two processes, {link}", self.name),
        }
    }
}

/// Everything that runs.
pub(super) struct Stages {
    pub(super) subjects: Vec<Subject>,
    _prefill: Vec<PrefillProcess>,
}

impl Stages {
    /// Starts prefill processes, and decode in this one.
    pub(super) async fn start(
        session: Session,
        model: &ModelArgs,
        plan: &PlanArgs,
        links: &[Link],
        batch: usize,
    ) -> Result<Self> {
        let bound = Bound::from_args(plan, &session)?;
        let depth = session.depth();
        let all = KvPlan::send_all(depth);
        let dense = || {
            let removed = PerStage::dense(depth);
            Bound::new(removed, KvFill::Nested, all.clone(), bound.boundary)
        };
        let boundary = bound.boundary.to_string();
        let as_dense = PlanArgs {
            boundary: Some(bound.boundary),
            ..PlanArgs::default()
        };
        let mut named = vec![("dense", [dense(), dense()], as_dense)];
        if !bound.is_dense() {
            let again = Bound::from_args(plan, &session)?;
            named.push(("trimmed", [bound, again], plan.clone()));
        }
        let model_hash = session.checkpoint.hash()?;
        let weights = Arc::new(session.model);
        let (mut subjects, mut processes) = (Vec::new(), Vec::new());
        for (name, [unified, pd], plan) in named {
            let served = |bound: Bound, mode| served(bound, &weights, mode, &model_hash);
            let one = served(unified, Mode::Unified)?;
            let generator = Generator::unified(Arc::clone(&one), limits(batch), Metrics::new())?;
            subjects.push(Subject {
                name,
                link: None,
                served: one,
                generator,
            });
            let two = served(pd, Mode::PdKv)?;
            let process = PrefillProcess::start(model, &plan, &boundary, batch)?;
            for &link in links {
                let address = if link.is_loopback() {
                    process.address
                } else {
                    link::start(process.address, link).await?
                };
                subjects.push(Subject {
                    name,
                    link: Some(link),
                    served: Arc::clone(&two),
                    generator: decode(&two, address, batch)?,
                });
            }
            processes.push(process);
        }
        Ok(Self {
            subjects,
            _prefill: processes,
        })
    }
}

fn served(bound: Bound, weights: &Arc<Llama>, mode: Mode, hash: &str) -> Result<Arc<Served>> {
    let parts = bound.into_served(weights, mode, hash.to_owned());
    Ok(Arc::new(Served::new(parts)?))
}

fn decode(served: &Arc<Served>, prefill: SocketAddr, batch: usize) -> Result<Generator> {
    let address = PrefillAddress {
        uri: format!("http://{prefill}"),
        ca: None,
        token: None,
    };
    let remote = RemotePrefill::new(address, 1)?;
    Ok(Generator::decode(
        Arc::clone(served),
        remote,
        limits(batch),
        Metrics::new(),
    )?)
}

/// A batch at a time, for as long as it takes.
fn limits(batch: usize) -> Limits {
    Limits {
        in_flight: batch,
        waiting: 0,
        max_wait: Duration::from_hours(24),
        batch,
        deadline: Duration::from_hours(24),
    }
}

/// Another `pdtrim`, which ends when this is dropped.
struct PrefillProcess {
    child: Child,
    address: SocketAddr,
}

impl PrefillProcess {
    fn start(model: &ModelArgs, plan: &PlanArgs, boundary: &str, batch: usize) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command.args(["--quiet", "serve", "prefill", "--listen", "127.0.0.1:0"]);
        command.args(["--deadline", "86400", "--max-in-flight", &batch.to_string()]);
        command.args(model.flags()).args(plan.flags());
        command.args(["--boundary", boundary]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.context("cannot start prefill")?;
        let stdout = child.stdout.take();
        let mut process = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        // It has said why on stderr.
        ensure!(!line.is_empty(), "prefill did not start");
        let Some(Ok(address)) = line.trim().strip_prefix("http://").map(str::parse) else {
            bail!("prefill: expected its address, found `{}`", line.trim());
        };
        process.address = address;
        Ok(process)
    }
}

impl Drop for PrefillProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
