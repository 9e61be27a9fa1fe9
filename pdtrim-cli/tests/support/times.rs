//! Wall times in what the commands write: the only thing in which two runs may differ.

use serde_json::Value;

/// The file's bytes without them.
pub(crate) fn without(path: &str, bytes: Vec<u8>) -> Vec<u8> {
    let name = path.rsplit('/').next().unwrap();
    match name {
        // `date` and the seconds of an evaluation, as the harness has them; seconds of a search.
        "results.json" | "compare.json" => {
            let mut object: Value = serde_json::from_slice(&bytes).unwrap();
            clear(&mut object);
            serde_json::to_vec(&object).unwrap()
        }
        "compare.csv" => of_csv(&bytes),
        "compare.html" => of_page(&String::from_utf8(bytes).unwrap()).into_bytes(),
        // The seconds in which a repair was fitted.
        "report.html" => {
            let page = String::from_utf8(bytes).unwrap();
            let Some((before, after)) = page.split_once("to fit them took ") else {
                return page.into_bytes();
            };
            let (_, after) = after.split_once(" s. ").unwrap();
            format!("{before}{after}").into_bytes()
        }
        _ => bytes,
    }
}

fn clear(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "date" && !name.ends_with("seconds"));
            fields.values_mut().for_each(clear);
        }
        Value::Array(values) => values.iter_mut().for_each(clear),
        _ => {}
    }
}

/// Columns of seconds and of their standard deviation.
fn of_csv(bytes: &[u8]) -> Vec<u8> {
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers().unwrap().clone();
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in reader.records() {
        let line = line.unwrap();
        let kept = header
            .iter()
            .zip(&line)
            .filter(|(name, _)| !name.contains("_seconds"));
        writer.write_record(kept.map(|(_, cell)| cell)).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Columns whose head is a number of seconds.
fn of_page(page: &str) -> String {
    let mut columns = Vec::new();
    let mut kept = String::new();
    for row in page.split("<tr") {
        let starts = row.match_indices("<t").map(|(start, _)| start);
        let starts: Vec<usize> = starts
            .filter(|&start| {
                ["<th ", "<td ", "<th>", "<td>"]
                    .iter()
                    .any(|tag| row[start..].starts_with(tag))
            })
            .collect();
        let ends = starts.iter().skip(1).copied().chain([row.len()]);
        let cells: Vec<&str> = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| &row[start..end])
            .collect();
        let is_head = cells.iter().any(|cell| cell.contains("scope=\"col\""));
        if is_head {
            let timed = |cell: &str| cell.contains(">search s") || cell.contains(">repair s");
            columns = (0..cells.len()).filter(|&n| timed(cells[n])).collect();
        }
        kept.push_str(&row[..starts.first().copied().unwrap_or(row.len())]);
        let others = cells
            .iter()
            .enumerate()
            .filter(|(n, _)| !columns.contains(n));
        kept.extend(others.map(|(_, cell)| *cell));
    }
    kept
}
