use crate::DEFAULT_NAMESPACE;
use crate::json_text::escaped;

/// Which namespaces a subscriber wants. Events that belong to no namespace are wanted by all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceSet {
    /// All, also those that do not exist yet.
    All,
    /// One, as it stands escaped in a line.
    One(Vec<u8>),
}

impl NamespaceSet {
    /// Reads the `namespace` parameter: absent or empty is `default`, `*` is all. Any other name is
    /// taken as it is, known or not, as Nomad does.
    pub fn parse(value: Option<&str>) -> NamespaceSet {
        match value {
            None | Some("") => NamespaceSet::One(DEFAULT_NAMESPACE.as_bytes().to_vec()),
            Some("*") => NamespaceSet::All,
            Some(name) => NamespaceSet::One(escaped(name)),
        }
    }

    /// Whether an event of this namespace, as it stands escaped in a line, is wanted.
    pub fn contains_escaped(&self, namespace: &[u8]) -> bool {
        match self {
            NamespaceSet::All => true,
            NamespaceSet::One(name) => namespace.is_empty() || name == namespace,
        }
    }

    /// Whether an event of this namespace is wanted.
    pub fn contains(&self, namespace: &str) -> bool {
        self.contains_escaped(&escaped(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_without_namespace_always_pass() {
        for set in [
            NamespaceSet::parse(None),
            NamespaceSet::parse(Some("a")),
            NamespaceSet::parse(Some("*")),
        ] {
            assert!(set.contains(""));
        }
        assert!(NamespaceSet::parse(None).contains("default"));
        assert!(!NamespaceSet::parse(None).contains("a"));
        assert!(!NamespaceSet::parse(Some("a")).contains("default"));
        assert!(NamespaceSet::parse(Some("*")).contains("a"));
    }
}
