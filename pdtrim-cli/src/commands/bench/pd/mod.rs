//! Requests from prompt to last token, in one process and in two with a wire between them.

mod link;
mod page;
mod rows;
mod stages;

pub(crate) use link::Link;

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pdtrim_core::model::BlockModel;
use pdtrim_core::write_atomically;
use pdtrim_kv::serve::{Event, GenerateRequest, Generator, KvSent, SamplingParams};
use serde_json::json;
use tokio::runtime::Runtime;

use super::environment::{Environment, Peak};
use super::measure::{Point, Rounds};
use super::report::settings;
use super::text;
use crate::args::PdBenchArgs;
use crate::output;
use crate::progress::Progress;
use crate::session::Session;
use rows::{Row, Sample};
use stages::{Stages, Subject};

/// Requests of one kind.
struct Load<'a> {
    subject: &'a Subject,
    tokens: usize,
    prompts: &'a [Vec<u32>],
}

pub(super) fn run(args: &PdBenchArgs, progress: Progress) -> Result<()> {
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let new_tokens = args.new_tokens.get();
    let context = session.model.dims().context_length;
    let longest = args.lengths.iter().max().map_or(0, |length| length.get());
    // The last token is chosen, never fed.
    ensure!(
        longest + new_tokens - 1 <= context,
        "--lengths {longest} and --new-tokens {new_tokens}: expected at most {context} tokens, which is \
            the model's context"
    );
    let most = args.batches.iter().max().map_or(1, |batch| batch.get());
    let prompts = args.lengths.iter().map(|length| {
        let prompts = text::prompts(&session, length.get(), most);
        (length.get(), prompts)
    });
    let prompts: Vec<_> = prompts.collect();
    let peak = Peak::find(session.device, &args.measure);
    let environment = Environment::of(&session, &args.measure, peak)?;

    let runtime = Runtime::new().context("cannot start threads")?;
    let model = &args.measure.model;
    let starting = Stages::start(session, model, &args.plan, &args.links, most);
    let stages = runtime.block_on(starting)?;
    let mut loads = Vec::new();
    for (tokens, prompts) in &prompts {
        for batch in args.batches.iter().map(|batch| batch.get()) {
            loads.extend(stages.subjects.iter().map(|subject| Load {
                subject,
                tokens: *tokens,
                prompts: &prompts[..batch],
            }));
        }
    }
    let rounds = Rounds::new(&args.measure, 1, 3);
    let samples = measure(&runtime, &loads, new_tokens, rounds, progress)?;
    let rows = loads
        .iter()
        .zip(&samples)
        .map(|(load, samples)| Row::new(load.subject, load.tokens, load.prompts.len(), samples));
    let rows: Vec<Row> = rows.collect();
    for row in &rows {
        ensure!(
            row.kv_bytes == row.kv_bytes_expected,
            "{}: the plan says {} bytes of keys and values, the transport counted {}",
            row.way(),
            row.kv_bytes_expected,
            row.kv_bytes
        );
    }
    let what = json!({"new_tokens": new_tokens, "links": args.links});
    let object = json!({
        "bench": "pd", "environment": environment, "settings": settings(what, rounds), "rows": rows,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&object)?);
    let page = page::page(&environment, &rows, rounds.repeats).render();
    let output = args.measure.output.iter().map(|path| (path, &text));
    for (path, text) in output.chain([(&args.page, &page)]) {
        write_atomically(path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.measure.json {
        return output::json(&object);
    }
    let table = rows::table(&rows);
    output::result(&format!(
        "{table}\n{environment}\nwrote {}",
        args.page.display()
    ))
}

fn measure(
    runtime: &Runtime,
    loads: &[Load<'_>],
    new_tokens: usize,
    rounds: Rounds,
    progress: Progress,
) -> Result<Vec<Vec<Sample>>> {
    let points = loads.iter().map(|load| -> Point<'_, Sample> {
        Box::new(move || {
            let run = together(&load.subject.generator, load.prompts, new_tokens);
            runtime.block_on(run).with_context(|| {
                let (label, tokens) = (load.subject.label(), load.tokens);
                format!("{label}, {} prompts of {tokens} tokens", load.prompts.len())
            })
        })
    });
    let mut points: Vec<_> = points.collect();
    rounds.run("one process and two", progress, &mut points)
}

/// All prompts at once.
async fn together(
    generator: &Generator,
    prompts: &[Vec<u32>],
    new_tokens: usize,
) -> Result<Sample> {
    let began = Instant::now();
    let requests: Vec<_> = prompts
        .iter()
        .map(|prompt| {
            let request = GenerateRequest {
                prompt: prompt.clone(),
                max_new_tokens: new_tokens,
                sampling: SamplingParams::default(),
                stop: Vec::new(),
            };
            tokio::spawn(one(generator.clone(), request, began))
        })
        .collect();
    let mut sample = Sample {
        first: Vec::new(),
        per_token: Vec::new(),
        total: 0.0,
        tokens: prompts.len() * new_tokens,
        kv_bytes: 0,
        wire_bytes: 0,
    };
    for request in requests {
        let (first, last, sent) = request.await.context("a request was dropped")??;
        sample.first.push(first);
        let later = NonZeroUsize::new(new_tokens - 1);
        let per_token = later.map(|later| (last - first) / later.get() as f64);
        sample.per_token.extend(per_token);
        sample.total = sample.total.max(last);
        sample.kv_bytes = sent.kv_bytes;
        sample.wire_bytes = sent.wire_bytes;
    }
    Ok(sample)
}

/// Seconds to the first and to the last token.
async fn one(
    generator: Generator,
    request: GenerateRequest,
    began: Instant,
) -> Result<(f64, f64, KvSent)> {
    let mut events = generator.start(request).await?;
    let (mut first, mut last) = (None, 0.0);
    loop {
        match events.next().await {
            Event::Token(_) => {
                last = began.elapsed().as_secs_f64();
                first.get_or_insert(last);
            }
            Event::Done(_) => return Ok((first.unwrap_or(last), last, events.sent())),
            Event::Failed(error) => return Err(error.into()),
        }
    }
}
