//! Comparing numbers with their reference.

use std::fmt;

use tch::{Kind, Tensor};

use super::Outcome;
use super::reference::{GoldenError, Reference};

/// How far a number may be from its reference: absolute + relative × |reference|.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    pub(super) absolute: f64,
    pub(super) relative: f64,
}

impl Tolerance {
    pub(super) const EXACT: Self = Self::absolute(0.0);

    pub(super) const fn absolute(absolute: f64) -> Self {
        Self { absolute, relative: 0.0 }
    }

    pub(super) const fn relative(relative: f64) -> Self {
        Self { absolute: 0.0, relative }
    }
}

/// The comparison that used most of its tolerance.
#[derive(Debug, Clone)]
pub struct Worst {
    /// The tensor.
    pub name: String,
    /// |number - reference| of its worst element.
    pub error: f64,
    /// That, divided by the largest |reference| of the tensor.
    pub relative: f64,
    /// What the error might have been.
    pub tolerance: f64,
}

impl Worst {
    /// Error / tolerance: above 1 is a failure.
    fn used(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.tolerance }
    }
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, error, relative, tolerance } = self;
        write!(f, "largest relative error {relative:.1e} (error {error:.1e}, tolerance {tolerance:.1e}) at {name}")
    }
}

/// All comparisons of one file.
pub(super) struct Comparison<'a> {
    reference: &'a Reference,
    worst: Worst,
    failures: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(reference: &'a Reference) -> Self {
        let worst = Worst { name: "-".to_owned(), error: 0.0, relative: 0.0, tolerance: 0.0 };
        Self { reference, worst, failures: Vec::new() }
    }

    /// Compares a result with the file's tensor of that name, which must be there.
    pub(super) fn check(&mut self, name: &str, found: &Tensor, tolerance: Tolerance) -> Result<(), GoldenError> {
        let expected = self.reference.tensor(name)?;
        self.tensors(name, found, expected, tolerance);
        Ok(())
    }

    /// Compares a result with the file's tensor of that name, where it has one.
    pub(super) fn check_if_there(&mut self, name: &str, found: &Tensor, tolerance: Tolerance) {
        if let Some(expected) = self.reference.find(name) {
            self.tensors(name, found, expected, tolerance);
        }
    }

    /// Compares two tensors of one number of elements.
    pub(super) fn tensors(&mut self, name: &str, found: &Tensor, expected: &Tensor, tolerance: Tolerance) {
        if found.numel() != expected.numel() || (found.dim() == expected.dim() && found.size() != expected.size()) {
            self.fail(format!("{name} has shape {:?}, the reference {:?}", found.size(), expected.size()));
            return;
        }
        if found.numel() == 0 {
            return;
        }
        let found = found.detach().to_device(expected.device()).to_kind(Kind::Double).reshape(expected.size());
        let expected = expected.to_kind(Kind::Double);
        let errors = (found - &expected).abs().flatten(0, -1);
        let allowed = (expected.abs() * tolerance.relative + tolerance.absolute).flatten(0, -1);
        // Where an error uses most of what is allowed; NaN counts as most.
        let excess = (&errors - &allowed).nan_to_num(f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY);
        let at = (&errors / allowed.clamp_min(f64::MIN_POSITIVE))
            .nan_to_num(f64::INFINITY, f64::INFINITY, 0.0)
            .argmax(0, false);
        let at = if excess.max().double_value(&[]) > 0.0 { excess.argmax(0, false) } else { at }.int64_value(&[]);
        let error = errors.double_value(&[at]);
        let largest = expected.abs().max().double_value(&[]);
        let relative = if error == 0.0 { 0.0 } else { error / largest };
        self.record(Worst { name: name.to_owned(), error, relative, tolerance: allowed.double_value(&[at]) });
    }

    /// Compares two numbers.
    pub(super) fn numbers(&mut self, name: &str, found: f64, expected: f64, tolerance: Tolerance) {
        let error = (found - expected).abs();
        let relative = if error == 0.0 { 0.0 } else { error / expected.abs() };
        let tolerance = tolerance.absolute + tolerance.relative * expected.abs();
        self.record(Worst { name: name.to_owned(), error, relative, tolerance });
    }

    /// Two things that must be equal.
    pub(super) fn equal<T: PartialEq + fmt::Debug>(&mut self, name: &str, found: &T, expected: &T) {
        if found != expected {
            self.fail(format!("{name} is {found:?}, the reference {expected:?}"));
        }
    }

    fn record(&mut self, comparison: Worst) {
        // Written so that NaN fails.
        let within = comparison.error <= comparison.tolerance;
        if !within {
            self.fail(comparison.to_string());
        }
        if !within || comparison.used() > self.worst.used() {
            self.worst = comparison;
        }
    }

    fn fail(&mut self, reason: String) {
        self.failures.push(reason);
    }

    /// The verdict; tensors that nothing compared or used are a failure.
    pub(super) fn finish(mut self) -> Outcome {
        if let Some(name) = self.reference.unused().first() {
            self.failures.push(format!("nothing here checks {name}"));
        }
        match self.failures.as_slice() {
            [] => Outcome::Passed(self.worst),
            [one] => Outcome::Failed(one.clone()),
            [first, rest @ ..] => Outcome::Failed(format!("{first}, and {} more", rest.len())),
        }
    }
}
