//! A block's weights beside their gradients.

use burn::tensor::{DType, Gradients, Tensor};

use crate::model::FollowedBlock;

/// The weights of a block as variables, and the gradients of the groups so far.
pub(super) struct Weights<'f> {
    followed: &'f FollowedBlock,
    matrices: Vec<Option<Tensor<2>>>,
    scales: Vec<Option<Tensor<1>>>,
}

impl<'f> Weights<'f> {
    pub(super) fn new(followed: &'f FollowedBlock) -> Self {
        Self {
            followed,
            matrices: vec![None; followed.matrices.len()],
            scales: vec![None; followed.scales.len()],
        }
    }

    pub(super) fn add(&mut self, gradients: &mut Gradients) {
        add(&self.followed.matrices, &mut self.matrices, gradients);
        add(&self.followed.scales, &mut self.scales, gradients);
    }

    pub(super) fn sums(self) -> Sums {
        let mut sums = Sums::default();
        for (weight, gradient) in self.followed.matrices.iter().zip(self.matrices) {
            sums.add(weight.clone(), gradient);
        }
        for (weight, gradient) in self.followed.scales.iter().zip(self.scales) {
            let gradient = gradient.map(Tensor::unsqueeze);
            sums.add(weight.clone().unsqueeze(), gradient);
        }
        sums
    }
}

/// Adds the gradients of `weights`, where there are any, to the sums in f32.
fn add<const D: usize>(
    weights: &[Tensor<D>],
    sums: &mut [Option<Tensor<D>>],
    gradients: &mut Gradients,
) {
    for (weight, sum) in weights.iter().zip(sums) {
        let Some(gradient) = weight.grad_remove(gradients) else {
            continue;
        };
        let gradient = Tensor::<D>::cast(gradient, DType::F32);
        *sum = Some(match sum.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        });
    }
}

/// Σ |w · ∂NLL/∂w| and Σ w · ∂NLL/∂w over weights.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) absolute: f64,
    pub(super) signed: f64,
}

impl Sums {
    /// Adds a weight and its gradient, both `[rows, columns]`; rows are summed in f32, the rest in f64.
    fn add(&mut self, weight: Tensor<2>, gradient: Option<Tensor<2>>) {
        let Some(gradient) = gradient else { return };
        let product = weight.inner().cast(DType::F32) * gradient;
        self.absolute += total(&product.clone().abs());
        self.signed += total(&product);
    }
}

/// Sum of all elements: over the last axis in f32, the rest in f64.
pub(super) fn total<const D: usize>(tensor: &Tensor<D>) -> f64 {
    let rows = tensor.clone().cast(DType::F32).sum_dim(D - 1).into_data();
    let rows = rows.as_slice::<f32>().expect("cast to f32");
    rows.iter().map(|&row| f64::from(row)).sum()
}
