//! A program on the GPU: its tensors, and what the device can fuse.

use super::GpuEngine;
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::engine::operations::conv2d_form;
use crate::engine::{EngineError, Factors};
use crate::gpu::{Element, Gpu, Tensor};
use crate::lower::{Fusion, Place, Program};
use crate::model::Parameter;
use crate::ops::{SharedTiles, conv2d};

/// What the kernels of a device can compute in one dispatch.
#[derive(Debug)]
pub(super) struct GpuFusion {
    pub(super) gpu: Gpu,
    pub(super) tiles: SharedTiles,
}

impl Fusion for GpuFusion {
    fn pool(&self, conv: &Conv2dDims, pool: &Pool2dDims) -> bool {
        conv2d::pools(conv2d_form(&self.gpu, self.tiles, conv, false), conv, pool)
    }

    fn unpool(&self, conv: &Conv2dDims, pool: &Pool2dDims, needs_dx: bool) -> bool {
        conv2d::unpools(conv2d_form(&self.gpu, self.tiles, conv, needs_dx), conv, needs_dx, pool)
    }
}

/// One tensor per parameter, all in one buffer, so that one dispatch updates all of them: first the trained ones by their roles, in the order of
/// [`Factors::ROLES`], then the others.
#[derive(Debug)]
pub(super) struct Arena {
    /// The whole buffer, so that a part starts here where it starts in the buffer.
    pub(super) whole: Tensor,
    /// In the order of the buffer.
    parts: Vec<Tensor>,
    /// For each parameter of the model its position among the parts; `None` if it has none.
    order: Vec<Option<usize>>,
    /// Where biases, scales and shifts start among the trained parameters.
    pub(super) starts: [usize; 3],
}

impl Arena {
    /// Creates an arena for `all` parameters, or for the trained ones alone.
    pub(super) fn new(gpu: &Gpu, name: &str, parameters: &[Parameter], all: bool) -> Result<Self, EngineError> {
        let wanted = |trained: bool| {
            let of = move |(_, parameter): &(usize, &Parameter)| parameter.is_trained() == trained;
            parameters.iter().enumerate().filter(of)
        };
        let mut in_order: Vec<(usize, &Parameter)> = wanted(true).collect();
        let group = |parameter: &Parameter| Factors::ROLES.iter().position(|role| *role == parameter.role);
        in_order.sort_by_key(|(_, parameter)| group(parameter));
        let n_before = [1, 2, 3].map(|start| in_order.partition_point(|(_, parameter)| group(parameter) < Some(start)));
        in_order.extend(wanted(false).filter(|_| all));
        let parts: Vec<(String, Vec<usize>)> =
            in_order.iter().map(|(_, parameter)| (parameter.name.clone(), parameter.shape.clone())).collect();
        let (whole, parts) = gpu.arena(name, Element::F32, &parts)?;
        let order = (0..parameters.len()).map(|i| in_order.iter().position(|(index, _)| *index == i)).collect();
        let starts = n_before.map(|n| match parts.get(n) {
            Some(part) => part.first_element(),
            None => whole.len(),
        });
        Ok(Arena { whole, parts, order, starts })
    }

    /// Returns the part of the parameter `index`.
    pub(super) fn part(&self, index: usize) -> Option<&Tensor> {
        self.order[index].map(|at| &self.parts[at])
    }

    /// Returns the part in front that is as long as `other`, the arena of the trained parameters.
    pub(super) fn trained(&self, other: &Arena) -> Tensor {
        self.whole.slice(self.whole.name(), 0, other.whole.shape())
    }

    /// Returns the parts in the order of the parameters.
    fn in_order(&self) -> impl Iterator<Item = &Tensor> {
        self.order.iter().flatten().map(|at| &self.parts[*at])
    }

    /// Returns the name of the part that contains the element `index` of the whole, and the index within it.
    pub(super) fn part_at(&self, index: usize) -> (String, usize) {
        // The parts are in order: the last one that starts at or before the index contains it.
        let mut parts = self.parts.iter().map(|part| (part, part.first_element()));
        let part = parts.rfind(|(_, first)| *first <= index);
        part.map_or((self.whole.name().to_string(), index), |(part, first)| (part.name().to_string(), index - first))
    }

    /// Reads all parts back, together: a wait may take a tenth of a second in a browser.
    pub(super) async fn read(&self, gpu: &Gpu) -> Result<Vec<Vec<f32>>, EngineError> {
        let whole = gpu.read(&self.whole).await?;
        Ok(self.in_order().map(|part| whole[part.first_element()..][..part.len()].to_vec()).collect())
    }

    /// Writes `values` into the parts.
    pub(super) fn write(&self, gpu: &Gpu, values: &[Vec<f32>]) {
        for (tensor, values) in self.in_order().zip(values) {
            gpu.write(tensor, values);
        }
    }
}

impl GpuEngine {
    /// Creates the tensors of a program. Those of parameters and gradients are parts of the arenas.
    pub(super) fn tensors(
        &self,
        program: &Program,
        parameters: &Arena,
        gradients: Option<&Arena>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let gpu = &self.gpu;
        let mut buffers: Vec<Option<Tensor>> = vec![None; program.buffers.len()];
        let mut tensors = Vec::with_capacity(program.tensors.len());
        for tensor in &program.tensors {
            let shape = tensor.shape_for(program.batch);
            let element = if tensor.is_index { Element::U32 } else { Element::F32 };
            let missing = "only training has gradients, of trained parameters";
            tensors.push(match tensor.place {
                Place::Images => gpu.tensor(&tensor.name, &shape, element)?,
                Place::Parameter(i) => parameters.part(i).expect("every parameter has a part").clone(),
                Place::Gradient(i) => gradients.and_then(|arena| arena.part(i)).expect(missing).clone(),
                Place::Constant(value) => gpu.tensor_from(&tensor.name, &shape, &vec![value; tensor.len()])?,
                // Under the name of the tensor, because the buffer may have another one at another time.
                Place::Buffer(i) => match &buffers[i] {
                    Some(buffer) => buffer.slice(&tensor.name, 0, &shape),
                    None => buffers[i].insert(gpu.tensor(&tensor.name, &shape, element)?).clone(),
                },
            });
        }
        Ok(tensors)
    }
}
