use std::time::Duration;

use tidings_raft::{ChangeError, MemberRole, OpenError, ReadError, Replica, Role, discover};
use tokio::time;

use crate::cluster::{Cluster, Server, in_time, publish_one, until};

fn names(replica: &Replica) -> Vec<String> {
    let mut names: Vec<String> = replica.members().into_iter().map(|m| m.name).collect();
    names.sort();
    names
}

fn role_of(replica: &Replica, name: &str) -> Option<MemberRole> {
    let members = replica.members();
    members.iter().find(|m| m.name == name).map(|m| m.role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_server_is_told_and_stays_out() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (gone, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    let term = cluster.replicas[leader].status().term;
    publish_one(&cluster.replicas[0], "before").await;

    let unknown = cluster.replicas[stays].remove_server("zebra").await;
    let Err(ChangeError::Refused { sentence }) = unknown else {
        panic!("{unknown:?}");
    };
    assert!(
        sentence.contains("no server") && sentence.contains("zebra"),
        "{sentence}"
    );

    let name = cluster.servers[gone].name.clone();
    // asked of a follower: the leader does it
    in_time("removed", cluster.replicas[stays].remove_server(&name))
        .await
        .unwrap();
    until("two are left", || {
        names(&cluster.replicas[stays]).len() == 2
    })
    .await;
    let told = in_time("it is told", cluster.replicas[gone].fatal()).await;
    assert!(told.contains("was removed from its cluster"), "{told}");
    publish_one(&cluster.replicas[stays], "after").await;

    // the same directory again
    let removed = cluster.replicas.remove(gone);
    in_time("shutdown", removed.shutdown()).await;
    drop(removed);
    let server = cluster.servers.remove(gone);
    cluster.addresses.remove(gone);
    let again = server.try_start(3, &cluster.addresses, |_| {}).await;
    assert!(matches!(again, Err(OpenError::Removed { .. })), "refused");

    // it has not got in the way
    let leader = cluster.leader().await;
    assert_eq!(cluster.replicas[leader].status().term, term);
    cluster.check_one_history().await;

    // with an empty one it is a new server, of the same name
    let anew = Server::new(&name);
    let (replica, _) = anew.start(3, &cluster.addresses).await;
    let votes = || role_of(&replica, &name) == Some(MemberRole::Voter);
    until("it has a vote", votes).await;
    in_time("shutdown", replica.shutdown()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_removed_whom_a_majority_needs() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (dead, needed) = ((leader + 1) % 3, (leader + 2) % 3);
    let (dead_name, needed_name) = (
        cluster.servers[dead].name.clone(),
        cluster.servers[needed].name.clone(),
    );
    let handle = cluster.replicas[leader].clone();
    drop(cluster.replicas.remove(dead));
    cluster.servers.remove(dead);
    // until the leader has not heard of it for a while
    let silent = || {
        let members = handle.members();
        let member = members.iter().find(|member| member.name == dead_name);
        member.is_some_and(|member| member.last_contact > Some(Duration::from_secs(2)))
    };
    until("its silence is noticed", silent).await;
    let refused = handle.remove_server(&needed_name).await;
    let Err(ChangeError::Refused { sentence }) = refused else {
        panic!("{refused:?}");
    };
    assert!(sentence.contains("no majority"), "{sentence}");
    in_time("the dead one goes", handle.remove_server(&dead_name))
        .await
        .unwrap();
    assert_eq!(names(&handle).len(), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_given_by_name_and_a_leader_removes_itself() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let next = (leader + 1) % 3;
    let name = cluster.servers[next].name.clone();
    let asked = &cluster.replicas[(leader + 2) % 3];
    in_time("transferred", asked.transfer_leader(Some(&name)))
        .await
        .unwrap();
    until("it leads", || cluster.replicas[next].is_leader()).await;
    // once more: nothing to do
    in_time("again", cluster.replicas[next].transfer_leader(Some(&name)))
        .await
        .unwrap();
    in_time("to anybody", cluster.replicas[next].transfer_leader(None))
        .await
        .unwrap();
    until("another leads", || !cluster.replicas[next].is_leader()).await;

    let leader = cluster.leader().await;
    let name = cluster.servers[leader].name.clone();
    in_time("removed", cluster.replicas[leader].remove_server(&name))
        .await
        .unwrap();
    let removed = cluster.replicas.remove(leader);
    cluster.servers.remove(leader);
    in_time("it is told", removed.fatal()).await;
    until("two are left", || {
        cluster.replicas.iter().all(|r| names(r).len() == 2)
    })
    .await;
    publish_one(&cluster.replicas[0], "after").await;
    in_time("shutdown", removed.shutdown()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_votes_only_when_a_person_says_so() {
    let mut cluster = Cluster::of_three().await;
    let server = Server::new("d");
    let started = server.try_start(3, &cluster.addresses, |peers| peers.standby = true);
    let (replica, address) = started.await.unwrap();
    in_time("it is ready", replica.ready()).await;
    cluster.servers.push(server);
    cluster.replicas.push(replica);
    cluster.addresses.push(address);
    publish_one(&cluster.replicas[3], "by the standby").await;
    cluster.check_one_history().await;
    // longer than the leader takes to promote one that has caught up
    time::sleep(Duration::from_secs(1)).await;
    for replica in &cluster.replicas {
        assert_eq!(role_of(replica, "d"), Some(MemberRole::Standby));
    }
    assert_eq!(cluster.replicas[3].status().role, Role::Learner);
    let refused = cluster.replicas[0].transfer_leader(Some("d")).await;
    assert!(
        matches!(&refused, Err(ChangeError::Refused { sentence }) if sentence.contains("no vote")),
        "{refused:?}"
    );
    in_time("promoted", cluster.replicas[3].promote("d"))
        .await
        .unwrap();
    for replica in &cluster.replicas {
        until("it votes", || {
            role_of(replica, "d") == Some(MemberRole::Voter)
        })
        .await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_its_data_takes_its_place_again_only_when_told_to() {
    let mut cluster = Cluster::of_three().await;
    for n in 0..20 {
        publish_one(&cluster.replicas[0], &format!("x{n}")).await;
    }
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    let old_id = cluster.replicas[lost].status().node_id;
    drop(cluster.replicas.remove(lost));
    let name = cluster.servers.remove(lost).name;
    cluster.addresses.remove(lost);

    // an empty disk under the name of another
    let stranger = Server::new(&name);
    let (replica, _) = stranger.start(3, &cluster.addresses).await;
    let refusal = || {
        let waits_for = replica.waits_for();
        waits_for
            .map(|waits_for| waits_for.to_string())
            .unwrap_or_default()
    };
    until("it is told why", || {
        refusal().contains("tidings server remove")
    })
    .await;
    assert!(refusal().contains("tidings rebuild"), "{}", refusal());
    for other in &cluster.replicas {
        let members = other.members();
        assert_eq!(members.len(), 3);
        assert!(members.iter().any(|member| member.node_id == old_id));
    }
    in_time("shutdown", replica.shutdown()).await;

    let rebuilt = Server::new(&name);
    let started = rebuilt.try_start(3, &cluster.addresses, |peers| {
        peers.replaces = Some(old_id);
    });
    let (replica, address) = started.await.unwrap();
    let new_id = replica.status().node_id;
    cluster.replicas.push(replica);
    cluster.servers.push(rebuilt);
    cluster.addresses.push(address);
    let in_place = |replica: &Replica| {
        let members = replica.members();
        members.len() == 3
            && members
                .iter()
                .all(|m| m.role == MemberRole::Voter && m.node_id != old_id)
            && members
                .iter()
                .any(|m| m.node_id == new_id && m.name == name)
    };
    for replica in &cluster.replicas {
        until("it has taken the place", || in_place(replica)).await;
    }
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_say_where_they_are_and_whoever_asks_is_told() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let members = cluster.replicas[leader].members();
    assert!(
        members
            .iter()
            .all(|m| m.http == format!("http-of-{}", m.name))
    );
    assert!(
        members
            .iter()
            .all(|m| m.last_contact.is_some() && m.matched.is_some())
    );
    assert!(members.iter().all(|m| m.disk_short != Some(true)));
    assert_eq!(
        cluster.replicas[leader].last_contact(),
        Some(Duration::ZERO)
    );

    // whoever follows asks the leader
    let follower = &cluster.replicas[(leader + 2) % 3];
    let known_here = follower.members();
    assert!(known_here.iter().all(|m| m.matched.is_none()));
    let known_there = in_time("a list", follower.members_as_led()).await;
    assert_eq!(known_there.len(), 3);
    assert!(
        known_there
            .iter()
            .all(|m| m.last_contact.is_some() && m.matched.is_some()),
        "{known_there:?}"
    );

    // one moves
    let moved = (leader + 1) % 3;
    let contact = cluster.replicas[moved].last_contact();
    assert!(
        contact.is_some_and(|contact| contact < Duration::from_secs(2)),
        "{contact:?}"
    );
    let old = cluster.replicas.remove(moved);
    in_time("shutdown", old.shutdown()).await;
    drop(old);
    let server = cluster.servers.remove(moved);
    cluster.addresses.remove(moved);
    let started = server.try_start(3, &cluster.addresses, |peers| {
        peers.http = "elsewhere:4646".to_owned();
    });
    let (replica, address) = started.await.unwrap();
    cluster.replicas.push(replica);
    cluster.servers.push(server);
    cluster.addresses.push(address.clone());
    let name = cluster.servers[2].name.clone();
    for replica in &cluster.replicas {
        let recorded = || {
            let members = replica.members();
            let member = members.iter().find(|m| m.name == name);
            member.is_some_and(|m| m.address == address && m.http == "elsewhere:4646")
        };
        until("the move is recorded", recorded).await;
    }

    let found = in_time("an answer", discover(&cluster.addresses[..1], None))
        .await
        .unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found.iter().filter(|server| server.leader).count(), 1);
    let server = found.iter().find(|server| server.name == name).unwrap();
    assert_eq!(
        (server.peer.as_str(), server.http.as_str()),
        (address.as_str(), "elsewhere:4646")
    );
    let nowhere = ["127.0.0.1:1".to_owned()];
    let none = in_time("an answer", discover(&nowhere, None))
        .await
        .unwrap_err();
    assert!(
        none.to_string().contains("127.0.0.1:1 cannot be reached"),
        "{none}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_what_was_acknowledged_or_says_that_it_cannot() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    for n in 0..20 {
        let index = publish_one(&cluster.replicas[n % 3], &format!("r{n}")).await;
        let reader = &cluster.replicas[(n + 1) % 3];
        in_time("a barrier", reader.read_barrier()).await.unwrap();
        assert!(reader.state().index >= index);
    }
    // two of three are gone: nobody can tell what is newest
    let follower = (leader + 1) % 3;
    let left = cluster.replicas.remove(follower);
    cluster.replicas.clear();
    let refused = in_time("an answer", left.read_barrier()).await;
    assert_eq!(refused, Err(ReadError::NoLeader));
    in_time("shutdown", left.shutdown()).await;
}
