use pdtrim_core::pipeline::PdModel;
use pdtrim_core::{
    BlockId, BlockKv, BlockSet, Boundary, KvEncoding, KvFill, KvPlan, PerStage, TokenSpan,
};
use pdtrim_kv::PlannedTransfer;
use pdtrim_kv::serve::{Generator, Metrics};

use crate::stages::{Setup, greedy, metric, prompt};

/// What one process generates after 64 prompts of different lengths.
fn in_one_process(setup: &Setup) -> Vec<Vec<u32>> {
    let model = setup.model();
    let transfer = PlannedTransfer::new(setup.kv.clone());
    let pd = PdModel::new(
        &*model,
        setup.removed(),
        KvFill::Nested,
        setup.boundary,
        &transfer,
    );
    let pd = pd.unwrap();
    let generate = |number: usize| {
        let prompt = prompt(number, 1 + number % 40);
        let generated = pd.generate_greedy(&prompt, 12, &[], |_| {});
        generated.unwrap().tokens
    };
    (0..64).map(generate).collect()
}

/// All 64 at once.
async fn by(generator: &Generator) -> Vec<Vec<u32>> {
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let generator = generator.clone();
            let prompt = prompt(number, 1 + number % 40);
            tokio::spawn(async move {
                let events = generator.start(greedy(prompt, 12)).await.unwrap();
                events.all().await.unwrap().0
            })
        })
        .collect();
    let mut generated = Vec::new();
    for task in tasks {
        generated.push(task.await.unwrap());
    }
    generated
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_generate_what_one_process_does() {
    for boundary in [Boundary::Prefill, Boundary::Decode] {
        let setup = Setup {
            boundary,
            ..Setup::tiny()
        };
        let (address, _) = setup.start_prefill().await;
        let decode = setup.decode(address, 1);
        assert_eq!(by(&decode).await, in_one_process(&setup), "{boundary}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trimmed_stages_generate_what_the_pass_in_one_process_does() {
    let spans = BlockSet::from_indices(5, [0, 3]).unwrap();
    for (boundary, encoding) in [
        (Boundary::Prefill, KvEncoding::Int4),
        (Boundary::Decode, KvEncoding::Fp8E4m3),
        (Boundary::Decode, KvEncoding::Held),
    ] {
        let span = TokenSpan { first: 2, last: 5 };
        let heavy = BlockKv {
            span: Some(TokenSpan { first: 1, last: 3 }),
            heavy: 6,
            ..BlockKv::default()
        };
        let setup = Setup {
            boundary,
            removed: PerStage {
                prefill: vec![2],
                decode: vec![1, 2],
            },
            kv: KvPlan::uniform(&spans, span)
                .with_block(BlockId::new(4), heavy)
                .encoded_everywhere(encoding),
            ..Setup::tiny()
        };
        let (address, prefill) = setup.start_prefill().await;
        let decode = setup.decode(address, 1);
        assert_eq!(
            by(&decode).await,
            in_one_process(&setup),
            "{boundary} {encoding}"
        );
        // What the transport counted is what the plan's formula says, on both sides.
        let served = setup.served();
        let formula: u64 = (0..64).map(|number| served.kv_bytes(1 + number % 40)).sum();
        for metrics in [&prefill, decode.metrics()] {
            let counted = metric(metrics, "pdtrim_kv_bytes_total");
            assert!(
                (counted - formula as f64).abs() < 0.5,
                "{counted} {formula}"
            );
        }
        let wire = metric(decode.metrics(), "pdtrim_wire_bytes_total");
        let socket = metric(&prefill, "pdtrim_socket_bytes_total{direction=\"sent\"}");
        assert!(
            formula as f64 <= wire && wire <= socket,
            "{formula} {wire} {socket}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_is_the_same_with_both_stages_inside() {
    let setup = Setup {
        removed: PerStage::both(vec![1, 4]),
        ..Setup::tiny()
    };
    let unified = Generator::unified(setup.served(), setup.limits, Metrics::new()).unwrap();
    assert_eq!(by(&unified).await, in_one_process(&setup));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_ends_at_a_stop_token_and_says_so() {
    let setup = Setup::tiny();
    let model = setup.model();
    let pd = PdModel::dense(&*model, Boundary::Prefill);
    let generated = pd.generate_greedy(&[5, 6, 7], 10, &[], |_| {}).unwrap();
    let stop = generated.tokens[3];
    let end = generated.tokens.iter().position(|&token| token == stop);
    let unified = Generator::unified(setup.served(), setup.limits, Metrics::new()).unwrap();
    let request = |stop| pdtrim_kv::serve::GenerateRequest {
        stop,
        ..greedy(vec![5, 6, 7], 10)
    };
    let run = |stop| async {
        let events = unified.start(request(stop)).await.unwrap();
        events.all().await.unwrap()
    };
    let (tokens, finish) = run(vec![stop]).await;
    assert_eq!(tokens, generated.tokens[..=end.unwrap()]);
    assert_eq!(finish, pdtrim_kv::serve::Finish::Stop);
    let (tokens, finish) = run(Vec::new()).await;
    assert_eq!(tokens, generated.tokens);
    assert_eq!(finish, pdtrim_kv::serve::Finish::Length);
}
