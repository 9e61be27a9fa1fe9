//! Where weights on the CPU lie: in the pages of a mapped file, or in large pages of memory.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{AllocationProperty, Bytes, Tensor, TensorData};
use burn_flex::FlexTensor;
use memmap2::{Advice, MmapMut, MmapOptions};
use rayon::prelude::*;

use super::{flex, from_flex, is_weight};

/// Reads a byte of every few pages of a module's parameters, on all threads, so that the system maps
/// those pages in; it maps sixteen at a time.
pub(crate) fn touch(module: &impl Module) {
    weights_of(module).par_iter().for_each(|tensor| {
        for byte in tensor.bytes().iter().step_by(1 << 16) {
            std::hint::black_box(*byte);
        }
    });
}

/// Copies a module's parameters into one stretch of memory, for which large pages are asked; the module
/// stays as it is if there is no such memory.
pub(crate) fn in_large_pages<M: Module>(module: M) -> M {
    let weights = weights_of(&module);
    let sizes = weights.iter().map(|tensor| place_size(tensor.bytes()));
    let size: usize = sizes.clone().sum();
    if size == 0 {
        return module;
    }
    let Ok(mut memory) = MmapOptions::new().len(size).map_anon() else {
        return module;
    };
    advise(&memory);
    let mut rest = &mut memory[..];
    let mut places = Vec::with_capacity(weights.len());
    for (tensor, size) in weights.iter().zip(sizes) {
        let (place, after) = rest.split_at_mut(size);
        rest = after;
        // In parts, so that one large table does not keep the other threads waiting.
        let parts = place.chunks_mut(PART).zip(tensor.bytes().chunks(PART));
        places.extend(parts);
    }
    places
        .into_par_iter()
        .for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
    drop(weights);
    let mut moved = Moved {
        memory: bytes::Bytes::from_owner(memory),
        next: 0,
    };
    module.map(&mut moved)
}

/// Bytes that one thread copies at a time.
const PART: usize = 4 << 20;

/// Places begin at multiples of a cache line.
fn place_size(bytes: &[u8]) -> usize {
    bytes.len().next_multiple_of(64)
}

#[cfg(target_os = "linux")]
fn advise(memory: &MmapMut) {
    // Without large pages the copy is as good as the file was.
    let _ = memory.advise(Advice::HugePage);
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &MmapMut) {}

fn weights_of(module: &impl Module) -> Vec<FlexTensor> {
    struct Weights(Vec<FlexTensor>);
    impl ModuleVisitor for Weights {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            self.0.extend(whole(&parameter.val()));
        }
    }
    let mut weights = Weights(Vec::new());
    module.visit(&mut weights);
    weights.0
}

/// A tensor on the CPU that is all of its storage, as loaded weights are.
fn whole<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if !is_weight(tensor) {
        return None;
    }
    let tensor = flex(tensor.clone());
    let size = tensor.layout().num_elements() * tensor.dtype().size();
    (tensor.is_contiguous() && tensor.bytes().len() == size).then_some(tensor)
}

/// Puts the copies, in the order of the visit, in the parameters' places.
struct Moved {
    memory: bytes::Bytes,
    next: usize,
}

impl ModuleMapper for Moved {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = parameter.consume();
        let Some(old) = whole(&tensor) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let size = old.bytes().len();
        let slice = self.memory.slice(self.next..self.next + size);
        self.next += place_size(old.bytes());
        let (shape, dtype) = (old.layout().shape().clone(), old.dtype());
        let bytes = Bytes::from_shared(slice, AllocationProperty::Native);
        let moved = FlexTensor::from_data(TensorData::from_bytes(bytes, shape, dtype));
        Param::from_mapped_value(id, from_flex(moved), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;

    #[test]
    fn a_module_in_large_pages_is_the_same_module() {
        let model = TinyModel::default().build();
        let weights = model.weights().clone();
        let moved = in_large_pages(weights.clone());
        let bytes = |tensors: Vec<FlexTensor>| -> Vec<Vec<u8>> {
            tensors
                .iter()
                .map(|tensor| tensor.bytes().to_vec())
                .collect()
        };
        assert_eq!(bytes(weights_of(&moved)), bytes(weights_of(&weights)));
        let start = weights_of(&moved)[0].bytes().as_ptr();
        assert_ne!(start, weights_of(&weights)[0].bytes().as_ptr());
    }
}
