use std::net::SocketAddr;

use pdtrim_kv::serve::{
    Listener, PrefillAddress, RemotePrefill, Security, ServeError, TlsFiles, Token,
};

use crate::stages::{Setup, greedy, prompt};

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

/// A certificate for localhost, signed by itself, as files and as bytes.
pub(crate) fn certificate(folder: &std::path::Path) -> (TlsFiles, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.pem().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_and_the_token_decode_is_let_in_and_without_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, ca) = certificate(folder.path());
    let setup = Setup::tiny();
    let security = Security {
        tls: Some(tls),
        token: Some(token("secret")),
    };
    let (address, _) = setup.start_prefill_with(security).await;
    let try_with = |scheme: &str, ca: Option<Vec<u8>>, token: Option<Token>| {
        let uri = format!("{scheme}://localhost:{}", address.port());
        let decode = setup.decode_at(PrefillAddress { uri, ca, token }, 1);
        async move {
            let events = decode.start(greedy(prompt(1, 9), 4)).await?;
            events.all().await
        }
    };
    let good = try_with("https", Some(ca.clone()), Some(token("secret"))).await;
    assert_eq!(good.unwrap().0.len(), 4);
    for wrong in [None, Some(token("Secret"))] {
        let said = try_with("https", Some(ca.clone()), wrong).await;
        let said = said.unwrap_err().to_string();
        assert!(said.contains("bearer token"), "{said}");
    }
    // A certificate that nobody vouches for, and no TLS at all.
    for (scheme, ca) in [("https", None), ("http", None)] {
        let failed = try_with(scheme, ca, Some(token("secret")))
            .await
            .unwrap_err();
        assert!(matches!(failed, ServeError::Prefill { .. }), "{failed}");
    }
}

#[tokio::test]
async fn nothing_is_open_beyond_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = certificate(folder.path());
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    for (tls, token, missing) in [
        (None, None, "TLS certificate"),
        (None, Some(token("t")), "TLS certificate"),
        (Some(tls), None, "token"),
    ] {
        let refused = Listener::bind(everywhere, Security { tls, token }).await;
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("0.0.0.0") && said.contains(missing), "{said}");
    }
    for (uri, token, named) in [
        ("http://10.1.2.3:70", Some(token("t")), "TLS"),
        ("https://prefill.example:70", None, "token"),
        ("ftp://127.0.0.1", None, "http"),
        ("not an address", None, "not an address"),
    ] {
        let uri = uri.to_owned();
        let ca = None;
        let refused = RemotePrefill::new(PrefillAddress { uri, ca, token }, 1);
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(named), "{said}");
    }
    for uri in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
        let (uri, ca, token) = (uri.to_owned(), None, None);
        assert!(RemotePrefill::new(PrefillAddress { uri, ca, token }, 1).is_ok());
    }
}

#[tokio::test]
async fn files_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (good, _) = certificate(folder.path());
    let broken = folder.path().join("broken.pem");
    std::fs::write(&broken, "no certificate").unwrap();
    for (tls, named) in [
        (
            TlsFiles {
                certificate: broken.clone(),
                key: good.key.clone(),
            },
            "broken.pem",
        ),
        (
            TlsFiles {
                certificate: good.certificate.clone(),
                key: folder.path().join("nowhere.pem"),
            },
            "nowhere.pem",
        ),
    ] {
        let security = Security {
            tls: Some(tls),
            token: None,
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, security).await.unwrap();
        let metrics = pdtrim_kv::serve::Metrics::new();
        let served = listener.serve(
            pdtrim_kv::serve::Router::new(),
            pdtrim_kv::serve::Limits::default(),
            &metrics,
            std::future::pending(),
        );
        let said = served.await.unwrap_err().to_string();
        assert!(said.contains(named), "{said}");
    }
    std::fs::write(&broken, " \n").unwrap();
    let said = Token::read(&broken).unwrap_err().to_string();
    assert!(
        said.contains("broken.pem") && said.contains("token"),
        "{said}"
    );
    std::fs::write(&broken, " tok-en \n").unwrap();
    assert!(Token::read(&broken).is_ok());
    assert!(Token::new("two words").is_none());
    assert!(!format!("{:?}", token("hidden")).contains("hidden"));
}
