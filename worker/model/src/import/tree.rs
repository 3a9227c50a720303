//! The authors' parameter trees, flattened into an `.npz`: names and layouts are ours already, but for where the tree hangs and
//! whether the blocks of a stack are one array.

use tch::Tensor;

use super::Import;

/// Where checkpoints with optimizer state keep the parameters.
const ROOTS: [&str; 2] = ["params/", "opt/target/"];

/// Stacks that may be scanned, and which axis of their arrays is that of the blocks (big_vision `models/vit.py` and
/// `models/proj/cappa/cappa.py`, `nn.scan`).
const SCANNED: [(&str, &str, i64); 2] = [("/encoderblock/", "/encoderblock_", 0), ("/EncDecBlock/", "/EncDecBlock", 1)];

pub(super) fn read(import: &mut Import<'_>) {
    let mut given: Vec<(String, Tensor)> = std::mem::take(&mut import.given).into_iter().collect();
    if let Some(root) = ROOTS.iter().find(|root| given.iter().any(|(name, _)| name.starts_with(*root))) {
        let others = given.len();
        given = given.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(root)?.to_owned(), t))).collect();
        if given.len() < others {
            import.notes.push(format!("{} arrays of optimizer state are left out", others - given.len()));
        }
    }
    // A tree of images alone has no name for its only tower.
    let is_bare = given.iter().any(|(name, _)| name == "embedding/kernel");
    let has_head = given.iter().any(|(name, _)| name.starts_with("head/") || name.starts_with("MAPHead_0/"));
    let root = if has_head { "img/" } else { "encoder/" };
    for (name, tensor) in given {
        let name = if is_bare { format!("{root}{name}") } else { name };
        for (name, tensor) in blocks(name, tensor) {
            let leaf = name.rsplit('/').next().unwrap_or_default();
            // Told in words.
            if leaf == "cls" || name.contains("/pre_logits/") {
                import.given.insert(name, tensor);
            } else {
                import.params.push((name, tensor.atleast_1d()));
            }
        }
    }
    let is_two_tower = import.params.iter().any(|(name, _)| name == "txt/head/kernel");
    let projects = import.params.iter().any(|(name, _)| name == "img/head/kernel");
    if is_two_tower && !projects {
        import.identity();
    }
}

/// The parameters of every block, of an array of all; others as they are.
fn blocks(name: String, tensor: Tensor) -> Vec<(String, Tensor)> {
    for (stack, block, axis) in SCANNED {
        if let Some((before, after)) = name.split_once(stack)
            && tensor.dim() as i64 > axis
        {
            let each = tensor.unbind(axis).into_iter().enumerate();
            return each.map(|(i, tensor)| (format!("{before}{block}{i}/{after}"), tensor)).collect();
        }
    }
    vec![(name, tensor)]
}
