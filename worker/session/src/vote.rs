//! Which replicas have come apart, from what each rank says of its parameters.
//!
//! After every update all ranks hold the same bits. A bit that flips in one rank's memory, or a device that computes wrongly, breaks
//! that silently; from then on its gradients are those of another network.

use cappa_shared::ids::Rank;

/// The first sixteen bytes of a SHA-256 over a rank's parameters, as two numbers that a collective carries.
pub type Digest = [i64; 2];

/// The ranks whose parameters are not those of the majority; all ranks, where there is no majority to tell who is right.
/// Equal on every rank.
pub fn divergent(digests: &[Digest]) -> Vec<Rank> {
    let votes = |digest: &Digest| digests.iter().filter(|other| *other == digest).count();
    let right = digests.iter().find(|digest| 2 * votes(digest) > digests.len());
    (0..)
        .map(Rank)
        .zip(digests)
        .filter(|(_, digest)| right.is_none_or(|right| right != *digest))
        .map(|(rank, _)| rank)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_names_who_diverged_and_a_tie_suspects_everybody() {
        let of = |votes: &[i64]| {
            let digests: Vec<Digest> = votes.iter().map(|vote| [7, *vote]).collect();
            divergent(&digests).into_iter().map(|rank| rank.0).collect::<Vec<_>>()
        };
        assert!(of(&[1]).is_empty() && of(&[1, 1, 1]).is_empty());
        assert_eq!(of(&[1, 2, 1]), [1]);
        assert_eq!(of(&[3, 1, 2, 1, 1]), [0, 2]);
        assert_eq!(of(&[1, 2]), [0, 1]);
        assert_eq!(of(&[1, 2, 2, 1]), [0, 1, 2, 3]);
    }
}
