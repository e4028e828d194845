//! How products of queries and keys become logits, the same for every kernel that attends.

use crate::plan::{check_scale, log2_scale};
use crate::{Error, Result};

/// How products of queries and keys become logits, and the logarithm of their sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logits {
    /// What products are multiplied by: one over the root of the head's dimension, as a rule.
    pub scale: f32,
    /// Logits become `soft_cap * tanh(logit / soft_cap)`, before biases are added: 0.001 to 10,000, exact to a
    /// 2^-24th of the cap.
    pub soft_cap: Option<f32>,
    /// Of the log-sum-exps.
    pub base: LogBase,
}

/// The base of log-sum-exps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogBase {
    /// e, as FlashAttention and FlashMLA have it.
    #[default]
    E,
    /// 2, as FlashInfer has it.
    Two,
}

impl LogBase {
    /// What logarithms are multiplied by to be of base 2.
    pub(crate) fn log2_scale(self) -> f32 {
        match self {
            Self::E => std::f32::consts::LOG2_E,
            Self::Two => 1.0,
        }
    }

    /// What logarithms to base 2 are multiplied by.
    pub(super) fn unit(self) -> f32 {
        match self {
            Self::E => std::f32::consts::LN_2,
            Self::Two => 1.0,
        }
    }
}

impl Logits {
    /// Products by one over the root of the head's dimension, as they are, and natural logarithms.
    pub fn of(head_dim: u64) -> Self {
        Self { scale: (head_dim as f32).sqrt().recip(), soft_cap: None, base: LogBase::E }
    }

    pub(super) fn check(&self) -> Result<()> {
        check_scale(self.scale)?;
        if let Some(value) = self.soft_cap.filter(|cap| !(*cap >= 1e-3 && *cap <= 1e4)) {
            let what = "soft cap of logits";
            return Err(Error::Number { what, value, allowed: "0.001..=1e4" });
        }
        Ok(())
    }

    /// What a softmax of base 2 multiplies products by.
    pub(super) fn log2_scale(&self) -> f32 {
        log2_scale(self.scale)
    }

    /// What products are multiplied by for `exp` of twice a capped logit, and what its tangent is; zeros without a cap.
    pub(super) fn cap(&self) -> [f32; 2] {
        let Some(cap) = self.soft_cap else { return [0.0; 2] };
        let scale = 2.0 * f64::from(self.scale) * std::f64::consts::LOG2_E / f64::from(cap);
        [scale as f32, (f64::from(cap) * std::f64::consts::LOG2_E) as f32]
    }

    /// What kernels take, for queries and outputs of these types.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn params<T: crate::element::Half, O: crate::element::Real>(
        &self,
    ) -> crate::bindings::AttentionLogits {
        let [cap_scale, cap_log2] = self.cap();
        crate::bindings::AttentionLogits {
            log2_scale: self.log2_scale(),
            cap_scale,
            cap_log2,
            log_unit: self.base.unit(),
            element: T::NUMBER,
            output_element: O::NUMBER,
        }
    }
}
