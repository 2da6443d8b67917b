fn main() {
    let a: Vec<String> = std::env::args().collect();
    let w = shardstage_benches::workload::Work::ALL.into_iter().find(|w| w.to_string() == a[1]).unwrap();
    for e in shardstage_benches::workload::entries(w) {
        if a.len() > 2 && e.name != a[2] { continue; }
        let n = if a.len() > 3 { a[3].parse().unwrap() } else { w.operations() / 10 };
        eprint!("{w}: {} n={n} ", e.name);
        eprintln!("{:.2}", e.figure(n));
    }
}
