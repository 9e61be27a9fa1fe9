use burn::module::Module;
use burn::tensor::Device;

use super::*;
use crate::model::{Llama, LlamaWeights};
use crate::testing::TinyModel;

fn importance(model: &Llama) -> PerStage<Vec<f64>> {
    let window = |n: u32| (0..16).map(|m| (m * m + 5 * n) % 96).collect();
    let calibration = Calibration::new((0..3).map(window).collect(), 12).unwrap();
    let pass = TaylorPass::new(model, &calibration, Rows::Continuation, Boundary::Decode);
    pass.importance(&mut |_| {}).unwrap().by_element
}

#[test]
fn a_model_that_reads_its_blocks_has_the_importances_of_one_that_holds_them() {
    let held = TinyModel::default().build();
    let layers = held.weights().layers.clone();
    let weights = LlamaWeights {
        layers: Vec::new(),
        ..held.weights().clone()
    };
    let read = move |id: BlockId| layers[id.index()].clone();
    let streamed = Llama::streamed(held.config().clone(), weights, read, &Device::flex());
    assert_eq!(importance(&streamed), importance(&held));
}

#[test]
fn narrow_weights_have_the_importances_of_the_same_weights_in_f32() {
    /// Matrices as bf16, or as f32 again.
    struct Cast(DType);

    impl burn::module::ModuleMapper for Cast {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            let dtype = if D == 1 { DType::F32 } else { self.0 };
            param.map(|weight| Tensor::<D>::cast(weight, dtype))
        }
    }

    let model = TinyModel::default().build();
    let narrow = model.weights().clone().map(&mut Cast(DType::BF16));
    let wide = narrow.clone().map(&mut Cast(DType::F32));
    let [narrow, wide] = [narrow, wide].map(|weights| {
        importance(&Llama::new(
            model.config().clone(),
            weights,
            &Device::flex(),
        ))
    });
    for stage in [Stage::Prefill, Stage::Decode] {
        for (narrow, wide) in narrow.of(stage).iter().zip(wide.of(stage)) {
            // Keys and values that the first pass keeps are bf16.
            assert!((narrow / wide - 1.0).abs() < 0.01, "{narrow}, {wide}");
        }
    }
}
