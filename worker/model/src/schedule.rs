//! Learning-rate schedules: a factor of the learning rate at every step.

use serde::{Deserialize, Serialize};

/// How the factor falls after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine from 1 to 0.
    Cosine,
    /// A straight line from 1 to `end`.
    Linear {
        /// The factor at the last step.
        end: f64,
    },
    /// 1 / √(1 + (step + shift - warm-up) / timescale).
    Rsqrt {
        /// Steps; 10 000 is usual.
        timescale: f64,
        /// Steps; 0 is usual.
        shift: f64,
    },
    /// Always 1.
    Constant,
}

/// Warm-up, decay, cool-down; 0 steps of warm-up or cool-down mean none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Steps over which the factor grows linearly from 0.
    pub warmup_steps: u64,
    /// Last steps over which the factor is pulled linearly to 0.
    pub cooldown_steps: u64,
    /// The form between.
    pub decay: Decay,
}

impl Schedule {
    /// The factor of the update after `step` finished ones: the first update uses step 0, and so
    /// changes nothing where there is warm-up.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        let (step, total, warmup) = (step as f64, self.total_steps as f64, self.warmup_steps as f64);
        let progress = ((step - warmup) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
        let decay = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::Linear { end } => end + (1.0 - end) * (1.0 - progress),
            Decay::Rsqrt { timescale, shift } => 1.0 / (1.0 + ((step - warmup).max(0.0) + shift) / timescale).sqrt(),
            Decay::Constant => 1.0,
        };
        let ramp = |steps: f64, span: u64| if span == 0 { 1.0 } else { (steps / span as f64).clamp(0.0, 1.0) };
        decay * ramp(step, self.warmup_steps) * ramp(total - step, self.cooldown_steps)
    }
}
