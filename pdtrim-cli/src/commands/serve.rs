//! Starts what `pdtrim-kv` serves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use pdtrim_eval::Mode;
use pdtrim_kv::serve::{
    ApiModel, Generator, Limits, Listener, Metrics, PrefillAddress, PrefillServer, RemotePrefill,
    Router, Security, Served, TlsFiles, Token, openai,
};

use crate::args::{
    ApiArgs, ModelArgs, PlanArgs, PortArgs, ServeArgs, ServeCommand, ServeDecodeArgs,
    ServePrefillArgs, ServeUnifiedArgs,
};
use crate::output;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(crate) fn run(args: &ServeArgs, progress: Progress) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let served = runtime.block_on(async {
        match &args.command {
            ServeCommand::Prefill(args) => prefill(args, progress).await,
            ServeCommand::Decode(args) => decode(args, progress).await,
            ServeCommand::Unified(args) => unified(args, progress).await,
        }
    });
    // A prompt that is being computed is of no use to anyone any more.
    runtime.shutdown_background();
    served
}

async fn prefill(args: &ServePrefillArgs, progress: Progress) -> Result<()> {
    let listener = listener(args.listen, &args.port).await?;
    let loaded = Loaded::open(&args.model, &args.plan, Mode::PdKv, progress)?;
    let metrics = Metrics::new();
    // Prefill does not decode.
    let limits = limits(&args.port, 1);
    let server = PrefillServer::new(loaded.served, limits, metrics.clone(), args.zstd);
    let router = server.router().await;
    listen(listener, router, limits, &metrics, "prefill", progress).await
}

async fn decode(args: &ServeDecodeArgs, progress: Progress) -> Result<()> {
    let ca = args.prefill_ca.as_deref().map(read_file).transpose()?;
    let token = args.prefill_token_file.as_deref().map(Token::read);
    let address = PrefillAddress {
        uri: args.prefill.clone(),
        ca,
        token: token.transpose()?,
    };
    let remote = RemotePrefill::new(address, args.tries.get())?;
    let listener = listener(args.api.listen, &args.api.port).await?;
    let loaded = Loaded::open(&args.model, &args.plan, Mode::PdKv, progress)?;
    let limits = limits(&args.api.port, args.api.max_batch.get());
    let served = Arc::clone(&loaded.served);
    let generator = Generator::decode(served, remote, limits, Metrics::new())?;
    answer(listener, loaded, generator, &args.api, "decode", progress).await
}

async fn unified(args: &ServeUnifiedArgs, progress: Progress) -> Result<()> {
    let listener = listener(args.api.listen, &args.api.port).await?;
    let loaded = Loaded::open(&args.model, &args.plan, Mode::Unified, progress)?;
    let limits = limits(&args.api.port, args.api.max_batch.get());
    let served = Arc::clone(&loaded.served);
    let generator = Generator::unified(served, limits, Metrics::new())?;
    answer(listener, loaded, generator, &args.api, "unified", progress).await
}

async fn answer(
    listener: Listener,
    loaded: Loaded,
    generator: Generator,
    args: &ApiArgs,
    role: &str,
    progress: Progress,
) -> Result<()> {
    let metrics = generator.metrics().clone();
    let mut model = loaded.api;
    if let Some(name) = &args.served_model_name {
        model.name.clone_from(name);
    }
    let router = openai(generator, model)?;
    let limits = limits(&args.port, args.max_batch.get());
    listen(listener, router, limits, &metrics, role, progress).await
}

async fn listen(
    listener: Listener,
    router: Router,
    limits: Limits,
    metrics: &Metrics,
    role: &str,
    progress: Progress,
) -> Result<()> {
    let address = listener.address();
    let stop = asked_to_stop()?;
    progress.say(&format!("{role}: ready"));
    // Scripts wait for this line.
    output::result(&format!("{}://{address}", listener.scheme()))?;
    Ok(listener.serve(router, limits, metrics, stop).await?)
}

/// A model in the form that is served.
struct Loaded {
    served: Arc<Served>,
    api: ApiModel,
}

impl Loaded {
    fn open(model: &ModelArgs, plan: &PlanArgs, mode: Mode, progress: Progress) -> Result<Self> {
        let session = Session::open(model, progress)?.for_long_work();
        let bound = Bound::from_args(plan, &session)?;
        let config = session.model.config();
        let api = ApiModel {
            name: session.name.clone(),
            tokenizer: session.tokenizer.clone(),
            chat_template: session.checkpoint.chat_template()?,
            bos: config.bos_token_id,
            eos: config.eos_token_ids.clone(),
        };
        let model_hash = session.checkpoint.hash()?;
        let weights = Arc::new(session.model);
        let served = Served::new(bound.into_served(&weights, mode, model_hash))?;
        let served = Arc::new(served);
        Ok(Self { served, api })
    }
}

fn limits(port: &PortArgs, batch: usize) -> Limits {
    Limits {
        in_flight: port.max_in_flight.get(),
        waiting: port.max_waiting,
        max_wait: Duration::from_secs(port.max_wait),
        batch,
        deadline: Duration::from_secs(port.deadline),
    }
}

/// Before the model is read: a port that is taken should not cost a minute.
async fn listener(address: SocketAddr, port: &PortArgs) -> Result<Listener> {
    let tls = port.tls_cert.clone().zip(port.tls_key.clone());
    let token = port.token_file.as_deref().map(Token::read);
    let security = Security {
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        token: token.transpose()?,
    };
    Ok(Listener::bind(address, security).await?)
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    Ok(pdtrim_core::read_bytes(path, pdtrim_core::limits::CONFIG)?)
}

/// Ends with Ctrl-C, or when the system asks. Both are heeded from the call on, not from the first await.
#[cfg(unix)]
fn asked_to_stop() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let heed = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupted = heed(SignalKind::interrupt())?;
    let mut terminated = heed(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Ends with Ctrl-C.
#[cfg(not(unix))]
fn asked_to_stop() -> Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
