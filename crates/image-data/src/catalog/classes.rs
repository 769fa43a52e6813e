//! Classes: who belongs to which, and their numbers.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};

/// Folder names that say what is in them, not of which class it is.
const PLAIN_FOLDERS: [&str; 5] = ["images", "image", "img", "pictures", "photos"];

/// The class of every path by its folder: the first below the folders that all of them
/// share. `None` if a path lies in no such folder, or all lie in one.
///
/// `paths` are relative to the dataset, or to the folder of a split.
pub(super) fn by_folder<'a>(paths: impl Iterator<Item = &'a Path> + Clone) -> Option<Vec<String>> {
    let folders = |path: &Path| -> Vec<String> {
        let parents = path.parent().into_iter().flat_map(Path::components);
        let normal = parents.filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        });
        normal.collect()
    };
    let mut shared: Option<Vec<String>> = None;
    for path in paths.clone() {
        let own = folders(path);
        shared = Some(match shared {
            None => own,
            Some(mut known) => {
                let same = known.iter().zip(&own).take_while(|(a, b)| a == b).count();
                known.truncate(same);
                known
            }
        });
    }
    let depth = shared?.len();
    let classes: Option<Vec<String>> =
        paths.map(|path| folders(path).get(depth).cloned()).collect();
    classes.filter(|classes| {
        let distinct: BTreeSet<_> = classes.iter().collect();
        distinct.len() > 1 && !distinct.iter().any(|name| PLAIN_FOLDERS.contains(&name.as_str()))
    })
}

/// Class names and the number of each entry's class.
///
/// Names that are all numbers are these numbers, and `order` may name them. Others follow
/// `order` if it has them all, else they are sorted.
pub(super) fn numbered(classes: &[String], order: &[String]) -> (Vec<String>, Vec<u32>) {
    let distinct: BTreeSet<&String> = classes.iter().collect();
    let ordered = !order.is_empty() && distinct.iter().all(|name| order.contains(name));
    if !ordered && let Some(numbers) = as_numbers(classes) {
        let len = numbers.iter().max().map_or(0, |&largest| largest + 1);
        let name = |i: u32| order.get(i as usize).cloned().unwrap_or_else(|| i.to_string());
        return ((0..len).map(name).collect(), numbers);
    }
    let names: Vec<String> = match ordered {
        true => order.to_vec(),
        false => distinct.into_iter().cloned().collect(),
    };
    let places: HashMap<&String, u32> = names.iter().zip(0..).collect();
    let numbers = classes.iter().map(|class| places[class]).collect();
    (names, numbers)
}

/// Names that are all numbers, below a bound that keeps one stray number from becoming
/// millions of classes.
fn as_numbers(names: &[String]) -> Option<Vec<u32>> {
    const BOUND: u32 = 1 << 20;
    names.iter().map(|name| name.parse().ok().filter(|&number| number < BOUND)).collect()
}

/// The order of class names: `classes.txt`, one a line, in `dir`.
pub(super) fn order(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("classes.txt")).unwrap_or_default();
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn folders(paths: &[&str]) -> Option<Vec<String>> {
        by_folder(paths.iter().map(Path::new))
    }

    #[test]
    fn folders_below_the_shared_ones_are_classes() {
        let classes = folders(&["data/cat/1.png", "data/dog/old/2.png", "data/cat/3.png"]);
        assert_eq!(classes, Some(strings(&["cat", "dog", "cat"])));
        for none in [
            &["a/1.png", "a/2.png"][..],
            &["a/1.png", "2.png"],
            &["1.png"],
            &[],
            &["images/1.png", "more/2.png"],
        ] {
            assert_eq!(folders(none), None, "{none:?}");
        }
    }

    #[test]
    fn numbers_follow_names() {
        let (names, numbers) = numbered(&strings(&["rose", "daisy", "rose"]), &[]);
        assert_eq!((names, numbers), (strings(&["daisy", "rose"]), vec![1, 0, 1]));
        let order = strings(&["rose", "tulip", "daisy"]);
        let (names, numbers) = numbered(&strings(&["daisy", "rose"]), &order);
        assert_eq!((names, numbers), (order.clone(), vec![2, 0]));
        let (names, numbers) = numbered(&strings(&["3", "0"]), &order);
        assert_eq!((names, numbers), (strings(&["rose", "tulip", "daisy", "3"]), vec![3, 0]));
        let (names, numbers) = numbered(&strings(&["10", "2", "x"]), &[]);
        assert_eq!((names, numbers), (strings(&["10", "2", "x"]), vec![0, 1, 2]));
        let (names, _) = numbered(&strings(&["4000000000", "1"]), &[]);
        assert_eq!(names.len(), 2);
    }
}
