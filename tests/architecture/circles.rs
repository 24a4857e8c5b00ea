//! Whether files import each other in a circle, directly or through others. Looks at paths
//! that begin with `crate`, `super` or `self`; what a module hands on of its children counts as
//! the child's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Where a module is: `["cli", "sandbox", "argv"]`.
type Place = Vec<String>;

/// The modules of a crate, without their tests.
pub struct Modules {
    code: BTreeMap<Place, String>,
    /// Where the names are from that a module hands on of its children.
    handed_on: BTreeMap<(Place, String), Place>,
}

impl Modules {
    /// Reads all files below `src`.
    pub fn read(src: &Path) -> Self {
        let mut code = BTreeMap::new();
        for file in super::source_files(src) {
            let relative = file.strip_prefix(src).expect("below src").with_extension("");
            let mut place: Place =
                relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            place.pop_if(|name| name == "mod");
            let text = fs::read_to_string(&file).expect("readable");
            code.insert(place, super::code_of(&text));
        }
        code.retain(|place, _| !["lib", "main"].contains(&place[0].as_str()));
        code.retain(|place, _| !place.contains(&"tests".to_owned()));
        let mut modules = Self { code, handed_on: BTreeMap::new() };
        modules.handed_on = modules.handed_on();
        modules
    }

    /// For each module the children that are in a circle, or between two of them.
    pub fn circles(&self) -> BTreeMap<String, Vec<String>> {
        let mut graphs: BTreeMap<String, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
        for (place, code) in &self.code {
            for path in paths_in(code) {
                let Some(named) = self.resolve(place, &path) else { continue };
                let common = place.iter().zip(named).take_while(|(a, b)| a == b).count();
                // A module and its own children may know each other.
                if let (Some(from), Some(to)) = (place.get(common), named.get(common)) {
                    let graph = graphs.entry(place[..common].join("/")).or_default();
                    graph.entry(from).or_default().insert(to);
                    graph.entry(to).or_default();
                }
            }
        }
        let mut circles = BTreeMap::new();
        for (module, mut graph) in graphs {
            without_ends(&mut graph);
            if !graph.is_empty() {
                circles.insert(module, graph.into_keys().map(str::to_owned).collect());
            }
        }
        circles
    }

    fn handed_on(&self) -> BTreeMap<(Place, String), Place> {
        let mut handed_on = BTreeMap::new();
        for (place, code) in &self.code {
            for (at, _) in code.match_indices("use ") {
                let mut paths = Vec::new();
                tree(&code[at + "use ".len()..], &[], &mut paths);
                for mut path in paths {
                    let Some(name) = path.pop() else { continue };
                    let from: Place = place.iter().chain(&path).cloned().collect();
                    if from.len() > place.len() && self.code.contains_key(&from) {
                        handed_on.insert((place.clone(), name), from);
                    }
                }
            }
        }
        handed_on
    }

    /// The module that a path leads into.
    fn resolve(&self, place: &Place, path: &[String]) -> Option<&Place> {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let (mut full, rest) = match path.first()?.as_str() {
            "crate" => (Place::new(), &path[1..]),
            "self" => (place.clone(), &path[1..]),
            _ => (place[..place.len().checked_sub(supers)?].to_vec(), &path[supers..]),
        };
        let base = full.len();
        full.extend_from_slice(rest);
        let found = (1..=full.len()).rev().find(|end| self.code.contains_key(&full[..*end]))?;
        let name = rest.get(found.checked_sub(base)?);
        let from =
            name.and_then(|name| self.handed_on.get(&(full[..found].to_vec(), name.clone())));
        from.or_else(|| self.code.get_key_value(&full[..found]).map(|(place, _)| place))
    }
}

/// Takes away whoever knows nobody, and whom nobody knows, until none is left.
fn without_ends(graph: &mut BTreeMap<&str, BTreeSet<&str>>) {
    loop {
        let known: BTreeSet<&str> = graph.values().flatten().copied().collect();
        let is_end = |name: &str, names: &BTreeSet<&str>| names.is_empty() || !known.contains(name);
        let ends = graph.iter().filter(|(name, names)| is_end(name, names));
        let ends: Vec<&str> = ends.map(|(name, _)| *name).collect();
        if ends.is_empty() {
            return;
        }
        graph.retain(|name, _| !ends.contains(name));
        graph.values_mut().for_each(|names| names.retain(|name| !ends.contains(name)));
    }
}

/// All paths of some code.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && !"_:".contains(c)) {
                tree(&code[at..], &[], &mut paths);
            }
        }
    }
    paths
}

/// Reads one tree of a `use`, such as `a::{b, c::d}`, or one path. Returns how long it is.
fn tree(text: &str, before: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let start = text.len() - text.trim_start().len();
    if text[start..].starts_with('{') {
        let mut at = start + 1;
        loop {
            let rest = text[at..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            at = text.len() - rest.len();
            match tree(rest, before, paths) {
                0 => return at + 1,
                read => at += read,
            }
        }
    }
    let name = &text[start..];
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*');
    let name = &name[..end.unwrap_or(name.len())];
    if name.is_empty() {
        return 0;
    }
    let mut path = before.to_vec();
    path.extend((name != "self" || before.is_empty()).then(|| name.to_owned()));
    let end = start + name.len();
    if let Some(rest) = text[end..].strip_prefix("::") {
        let read = tree(rest, &path, paths);
        if read > 0 {
            return end + "::".len() + read;
        }
    }
    paths.push(path);
    end
}

#[test]
fn paths_are_found_in_trees_and_alone() {
    let code = "use super::{a::{B, c::D as _}, self};\nlet x = crate::e::f::<u8>(super::super::g);";
    let found: Vec<String> = paths_in(code).iter().map(|path| path.join("::")).collect();
    for wanted in ["super::a::B", "super::a::c::D", "super", "crate::e::f", "super::super::g"] {
        assert!(found.iter().any(|path| path == wanted), "{wanted} in {found:?}");
    }
}

#[test]
fn circles_are_found_whatever_is_between_and_nothing_else() {
    let place = |name: &str| name.split('/').map(str::to_owned).collect::<Place>();
    let mut modules = Modules {
        code: [
            ("m", "pub use a::A;"),
            ("m/a", "use super::b::B;"),
            ("m/b", "use super::c::deep::D;"),
            // By what the front page hands on.
            ("m/c", ""),
            ("m/c/deep", "use crate::m::A;"),
            ("m/below", ""),
            ("m/above", "use super::{A, below};"),
        ]
        .map(|(name, code)| (place(name), code.to_owned()))
        .into(),
        handed_on: BTreeMap::new(),
    };
    modules.handed_on = modules.handed_on();
    let circles: Vec<_> = modules.circles().into_iter().collect();
    assert_eq!(circles, [("m".to_owned(), ["a", "b", "c"].map(str::to_owned).to_vec())]);
}
