//! Where the values of a document stand in its text.

use super::document::{self, Entry, Node, Value};
use super::error::Position;
use super::overrides::override_tree;

/// The places of a document, for mistakes that are found where its text is not known, such as by a coordinator.
#[derive(Debug, Clone)]
pub struct Places(Option<Node>);

impl Places {
    /// Of a document with values put over it, as in [`super::JobSpec::parse_with`]. A text that can't be read has none.
    pub fn of(text: &str, overrides: &[(String, String)]) -> Self {
        let mut tree = document::read(text, &mut Vec::new()).ok();
        for (path, value) in overrides {
            // Mistakes in overrides are `parse_with`'s to tell.
            let _ = tree.as_mut().map(|tree| override_tree(tree, path, value));
        }
        Self(tree)
    }

    /// Where the value of a path such as `evaluate[0].data` stands, or the innermost thing around it that is there;
    /// nothing for a value that was put over the document's.
    pub fn find(&self, path: &str) -> Option<Position> {
        position_of(self.0.as_ref()?, path)
    }
}

/// Where a path stands in the text: its value, or the innermost thing around it that is there.
pub(super) fn position_of(tree: &Node, path: &str) -> Option<Position> {
    let mut node = tree;
    let mut position = tree.at;
    for part in path.split(['.', '[']) {
        let next = match (&node.value, part.strip_suffix(']')) {
            (Value::List(items), Some(index)) => index.parse::<usize>().ok().and_then(|index| items.get(index)),
            (Value::Map(entries), None) => entries.iter().find(|entry| entry.key == part).map(value_of),
            _ => None,
        };
        let Some(next) = next else { break };
        (node, position) = (next, next.at);
    }
    position
}

fn value_of(entry: &Entry) -> &Node {
    &entry.value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_where_its_value_or_what_is_around_it_stands() {
        let text =
            "name: demo\ndata: { train: train.json, seed: 7 }\nevaluate:\n  - name: words\n    data: held-out.json\n";
        let places = Places::of(text, &[("data.seed".into(), "8".into())]);
        let at = |path| places.find(path).map(|at| (at.line, at.column));
        assert_eq!(at("data.train"), Some((2, 16)));
        assert_eq!(at("evaluate[0].data"), Some((5, 11)));
        assert_eq!(at("evaluate[0].limit"), Some((4, 5)), "the evaluation it would be in");
        assert_eq!(at("data.seed"), None, "it was put over the document's");
    }
}
