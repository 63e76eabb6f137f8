//! Storing directories and lists: what turns entries into nodes.

use super::tree::{Child, Content, Entry, Node, Part, Totals, content, node};
use super::writer::Lane;
use crate::model::{Id, Result};

/// A leaf ends when its entries take about this many bytes, whatever their names.
const LEAF_BYTES: usize = 4 << 20;

/// Roughly the encoded length of an entry; part of the format, since it decides where leaves end.
fn weight(entry: &Entry) -> usize {
    use super::tree::Kind;
    let xattrs: usize = entry.meta.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
    let kind = match &entry.kind {
        Kind::File { holes, content: Content::Parts(parts) | Content::Lists(parts), .. } => {
            8 * holes.len() + 40 * parts.len()
        }
        Kind::File { holes, .. } => 8 * holes.len(),
        Kind::Symlink { target } => target.len(),
        _ => 0,
    };
    100 + entry.name.len() + xattrs + kind
}

/// Where leaves end in a sorted directory.
fn leaves(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let end = rest.iter().enumerate().position(|(i, entry)| {
            bytes += weight(entry);
            let by_name = i + 1 >= node::LEAF_MIN && node::ends_leaf(&entry.name);
            by_name || i + 1 == node::LEAF_MAX || bytes >= LEAF_BYTES
        });
        let (leaf, after) = rest.split_at(end.map_or(rest.len(), |i| i + 1));
        rest = after;
        Some(leaf)
    })
}

/// Stores a directory's entries (sorted by name) and gives its node and what is beneath it.
pub fn put_directory(lane: &mut Lane, entries: &[Entry]) -> Result<(Id, Totals)> {
    let mut children = Vec::new();
    for leaf in leaves(entries) {
        let mut totals = Totals::default();
        leaf.iter().for_each(|entry| totals.add(entry.totals()));
        let encoded = node::encode_leaf(leaf.iter());
        // What a reader would refuse must fail here, not when it is needed.
        Node::decode(&encoded)?;
        let node = lane.put(&encoded)?;
        let last = leaf.last().map(|entry| entry.name.clone()).unwrap_or_default();
        children.push(Child { last, count: leaf.len() as u64, totals, node });
    }
    if children.is_empty() {
        return Ok((lane.put(&node::encode_leaf([].iter()))?, Totals::default()));
    }
    while children.len() > 1 {
        let mut above = Vec::new();
        for group in children.chunks(node::BRANCH_MAX) {
            let mut totals = Totals::default();
            group.iter().for_each(|child| totals.add(child.totals));
            let node = lane.put(&node::encode_branch(group))?;
            let last = group.last().map(|child| child.last.clone()).unwrap_or_default();
            above.push(Child { last, count: group.iter().map(|child| child.count).sum(), totals, node });
        }
        children = above;
    }
    let top = children.swap_remove(0);
    Ok((top.node, top.totals))
}

/// Stores the root of a backup: `/` itself.
pub fn put_root(lane: &mut Lane, root: &Entry) -> Result<Id> {
    lane.put(&node::encode_root(root))
}

/// The content that `parts` make, storing lists where there are many.
pub fn put_content(lane: &mut Lane, parts: Vec<Part>) -> Result<Content> {
    Ok(match parts.as_slice() {
        [] => Content::Empty,
        [one] => Content::Whole(one.id),
        many if many.len() <= content::INLINE_PARTS => Content::Parts(parts),
        many => {
            let mut lists = Vec::new();
            let mut rest = many;
            while !rest.is_empty() {
                let ends = |(i, part): (usize, &Part)| i + 1 == content::LIST_PARTS || content::ends_list(&part.id);
                let end = rest.iter().enumerate().position(ends).map_or(rest.len(), |i| i + 1);
                let (list, after) = rest.split_at(end);
                let id = lane.put(&content::encode_list(list))?;
                lists.push(Part { id, len: list.iter().map(|part| part.len).sum() });
                rest = after;
            }
            Content::Lists(lists)
        }
    })
}
