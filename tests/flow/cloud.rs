//! The same edge on AWS, by configuration alone: at an emulator of it.

use serde_json::json;
use tests::{Cloud, Lab, ORIGIN_SECRETS, Service, eventually};

/// What is in the emulator for one service behind the load balancers.
fn direct(service: &Service) -> Vec<String> {
    let host = service.host();
    vec![
        format!("_gatehouse.{host} TXT \"instance={}\"", service.id()),
        format!("{host} A eu-west-1.elb.test"),
        format!("{host} A us-east-1.elb.test"),
    ]
}

/// Without the records that prove names to ACM.
async fn records(cloud: &Cloud) -> Vec<String> {
    cloud.records().await.into_iter().filter(|record| !record.contains(" CNAME ")).collect()
}

#[tokio::test]
async fn a_service_comes_changes_and_leaves_and_nothing_of_it_stays_in_aws() {
    let cloud = Cloud::start().await;
    let mut lab = Lab::on(&cloud).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    assert_eq!(records(&cloud).await, direct(&hello));
    assert_eq!(cloud.certificates().await, [hello.host()]);
    assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 200, "succeeded means that it is live");
    let https = lab.stack.layout.ports.https;
    let over_tls = lab.get_through(https, hello.host(), "/healthz", &[]).await;
    assert_eq!(over_tls, Some(200), "with the certificate of ACM");
    assert_eq!(lab.get_through(https, "other.example.test", "/healthz", &[]).await, None);
    let instances: String = {
        let mut all = String::new();
        for shard in 0..16 {
            all.extend(cloud.rows(&format!("instances#{shard}")).await);
        }
        all
    };
    assert!(
        instances.contains("sealed:1:") && !instances.contains("PRIVATE KEY"),
        "keys are sealed in the table"
    );

    // Another process takes over what this one leaves.
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.start_control_plane().await.unwrap();
    let more = hello
        .clone()
        .with("/hosts", json!(["hello.example.test", "hallo.example.test", "*.hallo.example.test"]));
    lab.change(&more).await;
    assert_eq!(records(&cloud).await.len(), 9, "{:?}", records(&cloud).await);
    assert_eq!(lab.get_through(https, "x.hallo.example.test", "/healthz", &[]).await, Some(200));
    assert_eq!(lab.get("hallo.example.test", "/healthz", None).await.status, 200);
    assert_eq!(cloud.certificates().await.len(), 1, "the former certificate is gone");
    lab.change(&hello).await;
    assert_eq!(records(&cloud).await, direct(&hello));
    assert_eq!(cloud.rows("held#id-hello").await.len(), 1);

    assert_eq!(lab.deprovision(&hello).await.status, 202);
    assert_eq!(lab.ended(&hello).await.0, "gone");
    assert_eq!(records(&cloud).await, Vec::<String>::new());
    assert_eq!(cloud.certificates().await, Vec::<String>::new());
    assert_eq!(cloud.rows("held#id-hello").await, Vec::<String>::new());
    assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 404);
    lab.stop().await;
}

#[tokio::test]
async fn behind_the_cdn_nobody_comes_around_it() {
    let cloud = Cloud::start().await;
    let lab = Lab::on(&cloud).await;
    let shop = lab.service("shop").with("/plan", json!("edge"));
    lab.live(&shop).await;
    let distributions = cloud.distributions().await;
    assert_eq!(distributions.len(), 1);
    assert_eq!(distributions[0]["hosts"], json!([shop.host()]));
    assert_eq!(distributions[0]["secret"], json!(ORIGIN_SECRETS[0]));
    let domain = distributions[0]["domain"].as_str().unwrap_or_default();
    assert!(records(&cloud).await.contains(&format!("{} A {domain}", shop.host())));
    let get = async |secret: Option<&str>| {
        let headers: Vec<_> = secret.map(|secret| ("x-gatehouse-origin", secret)).into_iter().collect();
        lab.get_through(cloud.doors.cdn, shop.host(), "/healthz", &headers).await
    };
    for secret in ORIGIN_SECRETS {
        assert_eq!(get(Some(secret)).await, Some(200), "through the CDN");
    }
    assert_eq!(get(Some("a guess")).await, Some(403));
    assert_eq!(get(None).await, Some(403), "around the CDN");
    assert_eq!(lab.get(shop.host(), "/healthz", None).await.status, 404, "nor by the other listeners");
    let https = lab.stack.layout.ports.https;
    assert_eq!(lab.get_through(https, shop.host(), "/healthz", &[]).await, Some(404));
    // What was around the CDN was not counted as a client of its firewall: the address is the one that the CDN tells.
    let shown = lab.envoy_admin("/config_dump?resource=dynamic_listeners").await;
    assert!(shown.contains("\"xff_num_trusted_hops\": 1"), "the CDN tells the client's address");

    let direct_now = shop.clone().with("/plan", json!("standard"));
    lab.change(&direct_now).await;
    assert_eq!(records(&cloud).await, direct(&shop));
    assert_eq!(cloud.distributions().await, Vec::<serde_json::Value>::new());
    assert_eq!(cloud.certificates().await.len(), 1);
    assert_eq!(lab.get(shop.host(), "/healthz", None).await.status, 200);
    // Both listeners have it until the new one is proven; then the former loses it.
    eventually("the CDN's listener has it no more", || async {
        (get(Some(ORIGIN_SECRETS[0])).await == Some(404)).then_some(())
    })
    .await;
    lab.change(&shop).await;
    assert_eq!(get(Some(ORIGIN_SECRETS[0])).await, Some(200), "and back");
    assert_eq!(lab.deprovision(&shop).await.status, 202);
    assert_eq!(lab.ended(&shop).await.0, "gone");
    assert_eq!(records(&cloud).await, Vec::<String>::new());
    assert_eq!(cloud.certificates().await, Vec::<String>::new());
    assert_eq!(cloud.distributions().await, Vec::<serde_json::Value>::new());
    lab.stop().await;
}

#[tokio::test]
async fn private_names_are_published_and_answered_within_the_networks_only() {
    let cloud = Cloud::start().await;
    let lab = Lab::on(&cloud).await;
    let own =
        lab.service("wiki").with("/plan", json!("internal")).with("/hosts", json!(["wiki.internal.test"]));
    let refused = lab.provision(&own.clone().with("/plan", json!("standard"))).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("is a private name, which only the plan"), "{}", refused.body);
    let refused = lab.provision(&own.clone().with("/hosts", json!(["wiki.example.test"]))).await;
    assert!(refused.body.contains("is not a private name"), "{}", refused.body);
    assert_eq!(lab.provision(&own).await.status, 202);
    let (state, description) = lab.ended(&own).await;
    assert_eq!(state, "succeeded", "{description}");
    assert_eq!(cloud.private_records().await.len(), 2);
    assert_eq!(records(&cloud).await, Vec::<String>::new());
    let get = |port| lab.get_through(port, own.host(), "/healthz", &[]);
    assert_eq!(get(cloud.doors.internal).await, Some(200));
    assert_eq!(get(cloud.doors.cdn).await, Some(403));
    assert_eq!(get(lab.stack.layout.ports.https).await, Some(404));
    assert_eq!(lab.deprovision(&own).await.status, 202);
    assert_eq!(lab.ended(&own).await.0, "gone");
    assert_eq!(cloud.private_records().await, Vec::<String>::new());
    lab.stop().await;
}

#[tokio::test]
async fn drift_is_found_and_mended_and_what_others_made_is_adopted() {
    let cloud = Cloud::start().await;
    let lab = Lab::on(&cloud).await;
    let (one, two) = (lab.service("one"), lab.service("two"));
    lab.live(&one).await;
    lab.live(&two).await;
    let run = async |args: &[&str]| {
        let output = lab.gatehouse(args).await;
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    };
    let look = async || run(&["drift", "--look"]).await;
    assert_eq!(run(&["drift"]).await, "nobody has looked yet; --look does\n");
    let text = look().await;
    assert!(text.starts_with("0 differences at 2 services"), "{text}");

    cloud.add_record(one.host(), "AAAA", "2001:db8::1").await;
    assert_eq!(run(&["purge", &two.id()]).await.lines().count(), 1);
    eventually("its routes are gone", || async {
        (lab.get(two.host(), "/healthz", None).await.status == 404).then_some(())
    })
    .await;
    let text = look().await;
    for words in [
        "id-one  one.example.test AAAA should not be there  found".to_owned(),
        "id-two  two.example.test is left over: nobody has it  found".into(),
        ": nobody has it  found\n".into(),
        "3 differences at 1 services".into(),
    ] {
        assert!(text.contains(&words), "no {words:?} in {text}");
    }
    let text = run(&["drift", "--mend"]).await;
    assert_eq!(text.matches("  mended").count(), 3, "{text}");
    let text = look().await;
    assert!(text.starts_with("0 differences at 1 services"), "{text}");
    assert_eq!(records(&cloud).await, direct(&one));
    assert_eq!(cloud.certificates().await, [one.host()]);

    let www = lab.service("www");
    cloud.add_record(www.host(), "A", "192.0.2.1").await;
    assert_eq!(lab.provision(&www).await.status, 202);
    let (state, description) = lab.ended(&www).await;
    assert!(state == "failed" && description.contains("not made by Gatehouse"), "{description}");
    assert!(records(&cloud).await.contains(&format!("{} A 192.0.2.1", www.host())), "it is left alone");
    let text = run(&["adopt", &www.id(), "--host", www.host()]).await;
    assert_eq!(text, "adopted; apply the service again\n");
    lab.live(&www).await;
    assert_eq!(records(&cloud).await.len(), 6);
    assert!(!records(&cloud).await.contains(&format!("{} A 192.0.2.1", www.host())));
    lab.stop().await;
}

/// A company begins on one machine, and moves.
#[tokio::test]
async fn state_moves_from_one_machine_to_aws_and_services_stay_live() {
    let cloud = Cloud::start().await;
    let mut lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    lab.stack.control_plane.take().expect("it runs").stop(std::time::Duration::from_secs(10)).await;
    let file = lab.folder().join("state.jsonl").display().to_string();
    let run = async |args: &[&str]| {
        let output = lab.gatehouse(args).await;
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (good, text) = run(&["state", "export", &file, "--dev"]).await;
    assert!(good, "{text}");
    assert!(!run(&["state", "export", &file, "--dev"]).await.0, "a copy is not overwritten");
    cloud.configure(&mut lab.stack.layout);
    let aws =
        lab.stack.layout.control_plane_args.iter().find(|arg| arg.starts_with("--aws=")).unwrap().clone();
    let import = ["state", "import", &file, "--dev", &aws];
    let output = lab.gatehouse_with(&import, &cloud.emulator.environment()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = lab.gatehouse_with(&import, &cloud.emulator.environment()).await;
    let text = [again.stdout, again.stderr].concat();
    assert!(String::from_utf8_lossy(&text).contains("holds 1 service instances already"));
    lab.stack.start_control_plane().await.unwrap();
    assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 200, "it never was away");
    lab.change(&hello.clone().with("/routes/0/timeout", json!("7s"))).await;
    assert_eq!(records(&cloud).await, direct(&hello), "its names are published there with its next change");
    lab.stop().await;
}
