//! Circles in a graph of waits.
//!
//! Invariant: every circle that is reported exists edge by edge, and a graph that has circles has at least one reported, for
//! each of its strongly connected parts.

use std::collections::BTreeMap;

/// Circles among `edges`, each from its lowest member on. Takes time in proportion to nodes and edges, and no stack.
pub(crate) fn find<N: Copy + Ord>(edges: &[(N, N)]) -> Vec<Vec<N>> {
    let mut next: BTreeMap<N, Vec<N>> = BTreeMap::new();
    for (from, to) in edges {
        next.entry(*from).or_default().push(*to);
    }
    // A node is on the path that is being walked, at this place, or done with.
    let mut seen: BTreeMap<N, Option<usize>> = BTreeMap::new();
    let mut circles = Vec::new();
    for start in next.keys() {
        if seen.contains_key(start) {
            continue;
        }
        let mut path = vec![(*start, 0)];
        seen.insert(*start, Some(0));
        while let Some((node, tried)) = path.last_mut() {
            let Some(to) = next.get(node).and_then(|to| to.get(*tried)).copied() else {
                seen.insert(*node, None);
                path.pop();
                continue;
            };
            *tried += 1;
            match seen.get(&to) {
                None => {
                    seen.insert(to, Some(path.len()));
                    path.push((to, 0));
                }
                Some(Some(place)) => circles.push(turned(path[*place..].iter().map(|(node, _)| *node).collect())),
                Some(None) => {}
            }
        }
    }
    circles.sort();
    circles.dedup();
    circles
}

/// The same circle, from its lowest member on.
fn turned<N: Copy + Ord>(mut circle: Vec<N>) -> Vec<N> {
    let lowest = (0..circle.len()).min_by_key(|at| circle[*at]).unwrap_or_default();
    circle.rotate_left(lowest);
    circle
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn circles_are_found_and_chains_are_none() {
        assert_eq!(find::<u32>(&[]), Vec::<Vec<u32>>::new());
        assert_eq!(find(&[(1, 2), (2, 3), (1, 3), (4, 3)]), Vec::<Vec<u32>>::new());
        assert_eq!(find(&[(3, 3), (1, 2)]), [vec![3]]);
        assert_eq!(find(&[(9, 1), (3, 1), (1, 2), (2, 3), (3, 1), (5, 6), (6, 5)]), [vec![1, 2, 3], vec![5, 6]]);
    }

    /// Against the definition: a graph has a circle exactly if some node reaches itself.
    #[test]
    fn random_graphs_have_circles_exactly_if_a_node_reaches_itself() {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let nodes = 2 + random.next_u64() % 12;
            let edges: Vec<(u64, u64)> =
                (0..random.next_u64() % 20).map(|_| (random.next_u64() % nodes, random.next_u64() % nodes)).collect();
            let mut reach = edges.clone();
            loop {
                let longer: Vec<_> = reach
                    .iter()
                    .flat_map(|(a, b)| edges.iter().filter(move |(c, _)| b == c).map(move |(_, d)| (*a, *d)))
                    .filter(|pair| !reach.contains(pair))
                    .collect();
                if longer.is_empty() {
                    break;
                }
                reach.extend(longer);
                reach.sort_unstable();
                reach.dedup();
            }
            let circles = find(&edges);
            for circle in &circles {
                for (at, from) in circle.iter().enumerate() {
                    assert!(edges.contains(&(*from, circle[(at + 1) % circle.len()])), "seed {seed}: {circle:?}");
                }
            }
            // Of each strongly connected part.
            for node in 0..nodes {
                if reach.contains(&(node, node)) {
                    let found = circles.iter().flatten().any(|member| {
                        *member == node || (reach.contains(&(node, *member)) && reach.contains(&(*member, node)))
                    });
                    assert!(found, "seed {seed}: nothing of {node}'s part in {circles:?}");
                }
            }
            assert!(reach.iter().any(|(a, b)| a == b) || circles.is_empty());
        }
    }
}
