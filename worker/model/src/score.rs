//! How well texts suit images, by log-likelihood: one pass of the decoder for many candidates of an image.
//!
//! Candidates share what they have in common in front: their tokens form a tree, whose nodes the decoder takes as one sequence in
//! which every node sees its ancestors only, at the position of its depth. So a prompt's words are computed once for all labels, and
//! nothing is computed behind the end of a short one.
//!
//! B images, N candidates, L text length, M nodes of a tree, V vocabulary.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::captioner::Captioner;
use crate::decoder::Memory;
use crate::layers::Mask;
use crate::{ModelError, PAD, loss};

/// Nodes of a tree, at which no further candidate is added: its attention grows with their square.
const NODES: usize = 256;
/// Nodes over all images of a pass: bounds the memory of their logits, `nodes × V`.
const NODES_PER_PASS: i64 = 4096;

impl Captioner {
    /// Log-likelihood of every candidate caption `[N, L]` for every image: `[B, N]`, f32. Summed
    /// over tokens, not divided by their number; higher is better.
    ///
    /// # Errors
    /// Images or candidates do not fit the model.
    pub fn score(&self, images: &Tensor, candidates: &Tensor) -> Result<Tensor, ModelError> {
        let encoded = tch::no_grad(|| self.encode(images))?;
        self.score_encoded(&encoded, candidates)
    }

    /// As [`Captioner::score`], for images that are encoded already, `[B, P, E]`. To score without
    /// seeing the image (a blind decoder), pass the encoding of a mean image.
    ///
    /// # Errors
    /// The candidates do not fit the model.
    pub fn score_encoded(&self, encoded: &Tensor, candidates: &Tensor) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let candidates = self.captions(candidates)?;
        let (count, images) = (candidates.size()[0], encoded.size()[0]);
        let memory = self.decoder.memory(encoded, self.precision());
        let scores = Tensor::zeros([images, count], (Kind::Float, self.device()));
        for tree in Tree::of_all(&rows(&candidates)) {
            let per_pass = (NODES_PER_PASS / tree.tokens.len() as i64).max(1);
            for first in (0..images).step_by(per_pass as usize) {
                let some = per_pass.min(images - first);
                let found = self.score_tree(&tree, &memory.narrow(first, some), some);
                let places = Tensor::from_slice(&tree.owners).to_device(self.device());
                let _ = scores.narrow(0, first, some).index_add_(1, &places, &found);
            }
        }
        Ok(scores)
    }

    /// Log-likelihoods of a tree's edges for some images: `[B, edges]`.
    fn score_tree(&self, tree: &Tree, memory: &Memory, images: i64) -> Tensor {
        let on_device = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(self.device());
        let tokens = on_device(&tree.tokens).unsqueeze(0).expand([images, -1], false);
        let mask = Mask::Additive(tree.mask().to_device(self.device()));
        let x = self.decoder.forward_at(&tokens, &on_device(&tree.depths), memory, &mask, self.precision());
        let logits = self.decoder.logits(&x, self.precision());
        let vocabulary = logits.size()[2];
        let edges: Vec<i64> = tree.nodes.iter().zip(&tree.labels).map(|(n, label)| n * vocabulary + label).collect();
        let chosen = logits.flatten(1, 2).index_select(1, &on_device(&edges));
        chosen - logits.logsumexp([-1i64].as_slice(), false).index_select(1, &on_device(&tree.nodes))
    }

    /// Log-likelihood of each image's own caption, `[B, L]` → `[B]`, f32: the negative of what
    /// the authors' evaluator calls perplexity.
    ///
    /// # Errors
    /// The captions do not fit the model.
    pub fn log_likelihood(&self, encoded: &Tensor, tokens: &Tensor) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let tokens = self.captions(tokens)?;
        Ok(loss::log_likelihood(&self.logits(encoded, &tokens)?, &tokens))
    }
}

fn rows(candidates: &Tensor) -> Vec<Vec<i64>> {
    Vec::try_from(candidates.to_kind(Kind::Int64)).expect("rows of token ids")
}

/// Candidates as a tree of tokens. Node 0 is the start, which is fed [`PAD`]; an edge to a token is scored at the node it starts from.
#[derive(Debug, PartialEq)]
struct Tree {
    /// The token that each node is fed, `M` of them.
    tokens: Vec<i64>,
    /// How many tokens come before it.
    depths: Vec<i64>,
    /// The node before it; the start has itself.
    parents: Vec<usize>,
    /// Of every scored token: the node that predicts it,
    nodes: Vec<i64>,
    /// the token,
    labels: Vec<i64>,
    /// and the candidate that it belongs to.
    owners: Vec<i64>,
}

impl Tree {
    fn new() -> Self {
        let start = (vec![PAD], vec![0], vec![0]);
        let (tokens, depths, parents) = start;
        Self { tokens, depths, parents, nodes: Vec::new(), labels: Vec::new(), owners: Vec::new() }
    }

    /// All candidates, in as many trees as keep each small. Neighbours in the order of their tokens have most in common.
    fn of_all(candidates: &[Vec<i64>]) -> Vec<Self> {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_key(|&place| &candidates[place]);
        let mut trees = Vec::new();
        let mut tree = Self::new();
        let mut children = HashMap::new();
        for place in order {
            if tree.tokens.len() >= NODES {
                trees.push(std::mem::replace(&mut tree, Self::new()));
                children.clear();
            }
            tree.add(&mut children, &candidates[place], place);
        }
        trees.push(tree);
        trees
    }

    fn add(&mut self, children: &mut HashMap<(usize, i64), usize>, candidate: &[i64], owner: usize) {
        let length = candidate.iter().rposition(|&token| token > PAD).map_or(0, |last| last + 1);
        let mut node = 0;
        for (depth, &token) in candidate[..length].iter().enumerate() {
            // Padding inside of a text is seen, but not scored.
            if token > PAD {
                self.nodes.push(node as i64);
                self.labels.push(token);
                self.owners.push(owner as i64);
            }
            if depth + 1 < length {
                node = *children.entry((node, token)).or_insert_with(|| {
                    self.tokens.push(token);
                    self.depths.push(depth as i64 + 1);
                    self.parents.push(node);
                    self.tokens.len() - 1
                });
            }
        }
    }

    /// What each node sees, `[1, 1, M, M]`: 0 for itself and its ancestors, -∞ for others.
    fn mask(&self) -> Tensor {
        let count = self.tokens.len();
        let mut mask = vec![f32::NEG_INFINITY; count * count];
        for (node, &parent) in self.parents.iter().enumerate() {
            // A parent comes before its children, so its own row is complete.
            mask.copy_within(parent * count..(parent + 1) * count, node * count);
            mask[node * count + node] = 0.0;
        }
        Tensor::from_slice(&mask).view([1, 1, count as i64, count as i64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_candidates_have_in_common_is_one_path() {
        // "a red star", "a red disc", "a", each with its end.
        let trees = Tree::of_all(&[vec![5, 6, 7, 1, 0], vec![5, 6, 8, 1, 0], vec![5, 1, 0, 0, 0]]);
        let [tree] = &trees[..] else { panic!("few candidates are one tree: {trees:?}") };
        assert_eq!(tree.tokens, [PAD, 5, 6, 7, 8]);
        assert_eq!(tree.depths, [0, 1, 2, 3, 3]);
        assert_eq!(tree.parents, [0, 0, 1, 2, 2]);
        let of = |owner| tree.owners.iter().filter(|&&of| of == owner).count();
        assert_eq!([of(0), of(1), of(2)], [4, 4, 2]);
        let mask = Vec::<f32>::try_from(tree.mask().flatten(0, -1)).unwrap();
        let seen: Vec<Vec<usize>> =
            mask.chunks(5).map(|row| (0..5).filter(|&node| row[node] == 0.0).collect()).collect();
        assert_eq!(seen, [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3], vec![0, 1, 2, 4]]);
    }

    #[test]
    fn many_candidates_are_several_trees_that_have_each_once() {
        let candidates: Vec<Vec<i64>> = (0..1000).map(|n| vec![2 + n % 7, 2 + n, 3, 1]).collect();
        let trees = Tree::of_all(&candidates);
        assert!(trees.len() > 5 && trees.iter().all(|tree| tree.tokens.len() < NODES + 4));
        let mut owners: Vec<i64> = trees.iter().flat_map(|tree| tree.owners.clone()).collect();
        owners.sort_unstable();
        assert!(owners.into_iter().eq((0..1000).flat_map(|n| [n; 4])));
    }
}
