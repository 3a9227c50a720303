//! Which state a group goes on with, from what each member holds.

use cappa_shared::ids::{Rank, Step};

/// How the members of a group come to one state. Equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// Nobody holds any: everybody restores the newest manifest, or initialises from the seed.
    Restore,
    /// Everybody holds the same step.
    Equal,
    /// Who is behind receives the state of one that is furthest.
    Broadcast {
        /// The lowest rank that is furthest.
        source: Rank,
        /// Its step.
        step: Step,
    },
}

/// The agreement on the steps that the ranks hold, in their order; nothing where a rank holds no state.
pub fn agree(steps: &[Option<Step>]) -> Agreement {
    let Some(furthest) = steps.iter().copied().max().flatten() else {
        return Agreement::Restore;
    };
    if steps.iter().all(|step| *step == Some(furthest)) {
        return Agreement::Equal;
    }
    let source = (0..).map(Rank).zip(steps).find(|(_, step)| **step == Some(furthest));
    Agreement::Broadcast { source: source.map_or(Rank(0), |(rank, _)| rank), step: furthest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_furthest_gives_its_state_to_those_behind() {
        let held = |step| Some(Step(step));
        assert_eq!(agree(&[None, None]), Agreement::Restore);
        assert_eq!(agree(&[held(0), held(0)]), Agreement::Equal);
        assert_eq!(agree(&[None, held(0)]), Agreement::Broadcast { source: Rank(1), step: Step(0) });
        let last = agree(&[held(3), held(5), None, held(5)]);
        assert_eq!(last, Agreement::Broadcast { source: Rank(1), step: Step(5) });
    }
}
