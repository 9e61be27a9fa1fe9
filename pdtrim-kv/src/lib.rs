//! Which KV entries cross from prefill to decode.
