//! Compiles `proto/pdtrim.proto` for the `serve` feature, without a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/pdtrim.proto");
    #[cfg(feature = "serve")]
    {
        let files = protox::compile(["proto/pdtrim.proto"], ["proto"])?;
        tonic_prost_build::configure()
            .bytes(".")
            .compile_fds(files)?;
    }
    Ok(())
}
