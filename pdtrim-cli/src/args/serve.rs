use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ModelArgs, PlanArgs};

/// Serve a model, or a plan, over HTTP: both stages in one process, or prefill and decode in two.
#[derive(Args, Debug)]
#[command(
    after_help = "Prefill and decode are started with the same model and the same plan; they compare hashes. \
        Both answer /health and /metrics; decode and unified answer OpenAI's /v1/completions, \
        /v1/chat/completions and /v1/models. Beyond loopback a TLS certificate and a token are needed."
)]
pub(crate) struct ServeArgs {
    #[command(subcommand)]
    pub(crate) command: ServeCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ServeCommand {
    /// Run prompts, and stream their keys and values to decode.
    Prefill(ServePrefillArgs),
    /// Have prompts run by prefill, and answer clients.
    Decode(ServeDecodeArgs),
    /// Both stages in this process, without the blocks that the plan removes from decode.
    Unified(ServeUnifiedArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ServePrefillArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Compress messages that zstd makes smaller.
    #[arg(long)]
    pub(crate) zstd: bool,
    /// Where to listen; port 0 is any that is free.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) port: PortArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ServeDecodeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Where prefill listens: http on loopback, https elsewhere.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7070")]
    pub(crate) prefill: String,
    /// Certificate (PEM) that prefill's is signed with, or is.
    #[arg(long, value_name = "FILE")]
    pub(crate) prefill_ca: Option<PathBuf>,
    /// File with the token that prefill asks for.
    #[arg(long, value_name = "FILE")]
    pub(crate) prefill_token_file: Option<PathBuf>,
    /// How often prefill is asked for a prompt whose answer breaks off or is damaged.
    #[arg(long, value_name = "N", default_value = "2")]
    pub(crate) tries: NonZeroUsize,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ServeUnifiedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
}

/// What answers clients.
#[derive(Args, Debug)]
pub(crate) struct ApiArgs {
    /// Where to listen; port 0 is any that is free.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    pub(crate) listen: SocketAddr,
    /// Name of the model in the API [default: as it was given].
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Option<String>,
    /// Texts that decode goes on with in one step.
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) max_batch: NonZeroUsize,
    #[command(flatten)]
    pub(crate) port: PortArgs,
}

/// How a port is kept, and for how many.
#[derive(Args, Debug)]
pub(crate) struct PortArgs {
    /// Certificate of this server (PEM), with those between it and the root.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// File with the token that clients have to show (`Authorization: Bearer …`).
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Requests whose KV cache is held at once.
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) max_in_flight: NonZeroUsize,
    /// Requests that may wait for that; more are refused at once.
    #[arg(long, value_name = "N", default_value = "240")]
    pub(crate) max_waiting: usize,
    /// Seconds that a request may wait for that; then it is refused too.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) max_wait: u64,
    /// Seconds that a request may take in all.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) deadline: u64,
}
