//! Documents that name tests name tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Documents with tables whose last column is headed `Test`.
const CITING: [&str; 2] = ["COMPATIBILITY.md", "docs/guarantees.md"];
/// Folders where tests are.
const TESTED: [&str; 4] = ["crates", "interop", "sim", "xtask"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Names of functions marked as tests, in any of the ways the project uses.
fn test_names() -> Result<BTreeSet<String>> {
    let mut files = Vec::new();
    for folder in TESTED {
        rust_files(&root().join(folder), &mut files)?;
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let mut marked = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if marked && let Some(after) = line.split("fn ").nth(1) {
                names.extend(after.split(['(', '<']).next().map(str::to_owned));
                marked = false;
            }
        }
    }
    Ok(names)
}

/// The words in backticks in the last column of every table that ends with a column `Test`.
fn cited(text: &str) -> Vec<String> {
    let mut cited = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let cells: Vec<_> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if !line.trim_start().starts_with('|') {
            within = false;
        } else if cells.last() == Some(&"Test") {
            within = true;
        } else if within {
            let last = cells.last().copied().unwrap_or_default();
            cited.extend(last.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    cited
}

#[test]
fn every_test_that_a_document_names_exists() -> Result<()> {
    let names = test_names()?;
    for document in CITING {
        let text = fs::read_to_string(root().join(document))
            .with_context(|| format!("cannot read {document}"))?;
        let cited = cited(&text);
        ensure!(
            !cited.is_empty(),
            "{document} names no test: has its table another form?"
        );
        let missing: Vec<_> = cited.iter().filter(|name| !names.contains(*name)).collect();
        assert!(
            missing.is_empty(),
            "{document} names tests that do not exist: {missing:?}"
        );
    }
    Ok(())
}

#[test]
fn citations_are_found_in_tables_only() {
    let text = "`prose`\n\n| a | Test |\n| --- | --- |\n| `x` | `one_test`, `two_test` |\n\n| b | c |\n| - | - |\n| d | `e` |\n";
    assert_eq!(cited(text), ["one_test", "two_test"]);
}

#[test]
fn relative_links_of_the_documents_lead_somewhere() -> Result<()> {
    let mut documents = Vec::new();
    for folder in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    ensure!(documents.len() > 10, "documents have moved: {documents:?}");
    for path in documents {
        let document = path.display();
        let folder = path.parent().context("a document lies in a folder")?;
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {document}"))?;
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(
                    folder.join(file).exists(),
                    "{document} links to {target}, which is not there"
                );
            }
        }
    }
    Ok(())
}

/// Names in the dependency tables of a `Cargo.toml`, but for crates of this repository.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut within = false;
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            within = table.trim_end_matches(']').ends_with("dependencies");
        } else if within
            && let Some((name, _)) = line.split_once(['=', '.', ' '])
            && !name.is_empty()
            && !name.starts_with(['#', '}', ']'])
            && !name.starts_with("tidings-")
        {
            names.push(name);
        }
    }
    names
}

#[test]
fn every_direct_dependency_has_a_row() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/dependencies.md"))?;
    let mut manifests = vec![root().join("Cargo.toml")];
    for folder in ["crates", "."] {
        for entry in fs::read_dir(root().join(folder))? {
            let manifest = entry?.path().join("Cargo.toml");
            if manifest.is_file() {
                manifests.push(manifest);
            }
        }
    }
    for manifest in manifests {
        let text = fs::read_to_string(&manifest)?;
        for name in dependencies(&text) {
            let row = format!("| `{name}` |");
            assert!(
                page.contains(&row),
                "docs/dependencies.md has no row for {name} of {}",
                manifest.display()
            );
        }
    }
    Ok(())
}
