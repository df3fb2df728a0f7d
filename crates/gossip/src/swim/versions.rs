//! Whether all speak a protocol that all understand.

use super::members::Members;
use crate::name::Name;
use crate::wire::{NodeState, State, Versions};

/// Checks what an exchange tells together with what is known here.
///
/// # Errors
///
/// Somebody speaks what another alive member does not understand. Peers use the same words.
pub(super) fn check(remote: &[NodeState], members: &Members) -> Result<(), String> {
    let everyone = || {
        let remote = remote
            .iter()
            .map(|node| (&node.name, node.state, node.versions));
        remote.chain(
            members
                .iter()
                .map(|member| (&member.name, member.state, member.versions)),
        )
    };
    let mut protocol = Range::default();
    let mut delegate = Range::default();
    for (_, state, versions) in everyone() {
        if state == State::Alive && versions != Versions::default() {
            protocol.narrow(versions.protocol_min, versions.protocol_max);
            delegate.narrow(versions.delegate_min, versions.delegate_max);
        }
    }
    for (name, _, versions) in everyone() {
        protocol.check(name, "protocol", versions.protocol_current)?;
        delegate.check(name, "delegate protocol", versions.delegate_current)?;
    }
    Ok(())
}

/// What all understand.
struct Range {
    min: u8,
    max: u8,
}

impl Default for Range {
    fn default() -> Range {
        Range {
            min: 0,
            max: u8::MAX,
        }
    }
}

impl Range {
    fn narrow(&mut self, min: u8, max: u8) {
        self.min = self.min.max(min);
        self.max = self.max.min(max);
    }

    fn check(&self, name: &Name, what: &str, version: u8) -> Result<(), String> {
        let Range { min, max } = self;
        if (*min..=*max).contains(&version) {
            return Ok(());
        }
        Err(format!(
            "Node '{name}' {what} version ({version}) is incompatible: [{min}, {max}]"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, state: State, versions: Versions) -> NodeState {
        NodeState {
            name: Name::from(name),
            state,
            versions,
            ..NodeState::default()
        }
    }

    #[test]
    fn one_that_others_do_not_understand_is_told_in_their_words() {
        let check = |nodes: &[NodeState]| super::check(nodes, &Members::default());
        let good = node("a", State::Alive, Versions::SERF);
        assert_eq!(check(std::slice::from_ref(&good)), Ok(()));
        let ahead = Versions {
            delegate_current: 9,
            ..Versions::SERF
        };
        assert_eq!(
            check(&[good.clone(), node("py9", State::Dead, ahead)]),
            Err("Node 'py9' delegate protocol version (9) is incompatible: [2, 5]".into())
        );
        assert_eq!(
            check(&[good, node("py8", State::Alive, Versions::default())]),
            Err("Node 'py8' protocol version (0) is incompatible: [1, 5]".into())
        );
    }
}
