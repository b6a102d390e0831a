"""The crate lists what is there, says nothing about the machine, and is the same bytes for the same files."""

import hashlib
import json
import re
import tomllib
import zipfile

import pytest
import yaml
from rocrate.rocrate import ROCrate

from neurorad import RESOURCES, __version__
from neurorad.cli import main
from neurorad.files import read_table
from neurorad.problems import InputError
from neurorad.provenance.crate import FORMATS, PROFILES, build, file_properties, installed, packages, rule_graph
from tests.provenance.crates import complaints

MADE = {
    "made": {
        "results/report.html": {
            **{"rule": "report", "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T03:04:06+00:00"},
            "inputs": {"results/tables/a.csv": "0", "elsewhere": None},
        },
        "results/tables/a.csv": {
            **{"rule": "table_a", "started": "2026-01-02T03:00:00+00:00", "ended": "2026-01-02T03:01:00+00:00"},
            "inputs": {},
        },
    },
    "sources": {},
}
SOURCES = {
    "ucsf-pdgm": {
        "name": "UCSF-PDGM",
        "terms": "CC BY 4.0",
        "licence": "https://spdx.org/x",
        "cite": ["https://doi.org/1"],
    },
    "cuimc": {"name": "CUIMC", "terms": "private", "cite": []},
}


@pytest.fixture
def study(tmp_path):
    """A folder as a run leaves it: (config, files, where the crate will lie)."""
    contents = {
        "Snakefile": "rule all:\n",
        "results/report.html": "<html></html>",
        "results/figures/fig1 flow.svg": "<svg/>",
        "results/tables/prüf#1.csv": "a,b\n1,2\n",
        "results/encoders/byol-dro-s0/encoder.safetensors": "weights",
        "results/odd.xyz": "",
        "results/provenance/config.yaml": "seed: 1\n",
    }
    paths = []
    for name, text in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    (tmp_path / "results" / "provenance" / "manifest.json").write_text(json.dumps(MADE))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"cohorts": {"a": {"release": "ucsf-pdgm"}}}))
    return paths[-1], paths[:-1], tmp_path / "results" / "provenance" / "ro-crate-metadata.json"


def crate_of(study, *files) -> dict:
    config, _, out = study
    return build(out, config, files, MADE, SOURCES)


def by_verb(study, *files) -> dict:
    """The crate as the verb writes it, over a study's own files and the companions of the crate."""
    config, _, out = study
    root = out.parents[2]
    config.write_text((root / "study.yaml").read_text())
    main(
        [
            "crate",
            *map(str, files),
            "--config",
            str(config),
            "--manifest",
            str(out.with_name("manifest.json")),
            "--out",
            str(out),
        ]
    )
    return json.loads(out.read_text())


def entities(graph: dict) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in graph["@graph"]}


def listed(graph: dict) -> dict[str, dict]:
    return {name: entity for name, entity in entities(graph).items() if "File" in entity["@type"]}


def made(study) -> dict:
    return crate_of(study, *study[1])


def test_sha256_and_size_are_those_of_the_bytes(study):
    config, files, _ = study
    expected = {
        (hashlib.sha256(path.read_bytes()).hexdigest(), str(len(path.read_bytes())), path.name)
        for path in (config, *files)
    }
    found = {(e["sha256"], e["contentSize"], e["name"]) for e in listed(made(study)).values()}
    assert found == expected


def test_ids_are_paths_from_the_folder_of_the_crate(study):
    assert set(listed(made(study))) == {
        "../../Snakefile",
        "../encoders/byol-dro-s0/encoder.safetensors",
        "../figures/fig1%20flow.svg",
        "../odd.xyz",
        "../report.html",
        "../tables/pr%C3%BCf%231.csv",
        "config.yaml",
    }


def test_nothing_in_it_names_the_machine_or_the_moment(study, tmp_path):
    text = json.dumps(made(study))
    assert str(tmp_path) not in text
    assert not re.search(r'"(/|file:|[A-Z]:\\)', text)
    # The only moments are those of the run's records.
    assert set(re.findall(r"\d{4}-\d\d-\d\dT[0-9:+]+", text)) == {
        "2026-01-02T03:00:00+00:00",
        "2026-01-02T03:04:06+00:00",
    }


def test_relative_paths_and_another_folder_give_the_same_crate(study, tmp_path, monkeypatch):
    config, files, out = study
    monkeypatch.chdir(tmp_path)
    near = [path.relative_to(tmp_path) for path in (out, config, *files)]
    assert build(near[0], near[1], near[2:], MADE, SOURCES) == made(study)


def test_files_in_another_order_or_twice_give_the_same_bytes(study):
    config, files, out = study
    files = files[1:]
    written = []
    for order in (files, files[::-1], [*files, files[2], config]):
        by_verb(study, *order)
        written.append(out.read_bytes())
        assert (out.parent / "workflow.zip").is_file()
    assert written[0] == written[1] == written[2]


def test_a_changed_file_gives_another_crate(study):
    before = made(study)
    study[1][2].write_text("<svg>new</svg>")
    after = made(study)
    changed = [name for name in entities(before) if entities(before)[name] != entities(after)[name]]
    assert changed == ["../figures/fig1%20flow.svg"]


def test_the_rocrate_library_loads_it(study):
    graph = by_verb(study, *study[1][1:])
    crate = ROCrate(study[2].parent)
    assert {entity.id for entity in crate.data_entities} == set(listed(graph))
    assert crate.mainEntity.id == "Snakefile"
    assert crate.root_dataset["license"].id == "https://spdx.org/licenses/Apache-2.0"
    assert crate.name == "NeuroRAD study"


def test_every_reference_leads_to_an_entity(study):
    graph = made(study)
    # Vocabularies lie outside.
    outside = ("https://w3id.org/ro/crate/", "https://bioschemas.org/profiles/FormalParameter/")
    known = set(entities(graph))
    references = set(re.findall(r'\{"@id": "([^"]+)"\}', json.dumps(graph)))
    assert {name for name in references - known if not name.startswith(outside)} == set()
    assert len(references & known) > 10


def test_the_run_leads_from_the_settings_by_workflow_and_software_to_every_result(study):
    graph = entities(made(study))
    run = graph["#run"]
    assert run["@type"] == "CreateAction"
    assert run["object"] == {"@id": "config.yaml"}
    assert run["instrument"] == [{"@id": "../../Snakefile"}, {"@id": "#neurorad"}]
    assert {part["@id"] for part in run["result"]} == set(listed(made(study))) - {"config.yaml", "../../Snakefile"}
    assert (run["startTime"], run["endTime"]) == ("2026-01-02T03:00:00+00:00", "2026-01-02T03:04:06+00:00")
    assert graph["../../Snakefile"]["@type"] == ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
    assert graph["../../Snakefile"]["programmingLanguage"] == {"@id": "#snakemake"}


def test_without_a_snakefile_there_is_no_crate(study):
    with pytest.raises(InputError, match="no Snakefile among the files"):
        crate_of(study, *study[1][1:])


def test_the_validator_of_its_makers_accepts_it(study, tmp_path):
    """RO-Crate 1.1, Process Run, Workflow and Workflow Run Crate; and it does refuse a crate without its workflow."""
    by_verb(study, *study[1][1:])
    root = study[2].parents[2]
    assert complaints(root, tmp_path / "good") == []
    crate = json.loads(study[2].read_text())
    for entity in crate["@graph"]:
        entity.pop("mainEntity", None)
    study[2].write_text(json.dumps(crate))
    assert any("mainEntity" in text for text in complaints(root, tmp_path / "bad"))


def test_it_conforms_to_the_run_profiles_and_says_when_the_study_was_done(study):
    graph = entities(made(study))
    assert {part["@id"] for part in graph["./"]["conformsTo"]} == set(PROFILES)
    assert graph["./"]["datePublished"] == "2026-01-02T03:04:06+00:00"


def test_data_have_their_terms_and_citation(study):
    graph = entities(made(study))
    assert {part["@id"] for part in graph["./"]["citation"]} == {"#data-ucsf-pdgm", "#data-cuimc"}
    assert graph["#data-ucsf-pdgm"]["license"] == "https://spdx.org/x"
    assert graph["#data-ucsf-pdgm"]["citation"] == "https://doi.org/1"
    assert graph["#data-cuimc"]["license"] == "private"


def test_the_verb_adds_code_graph_and_environment(study, tmp_path):
    by_verb(study, *study[1][1:])
    folder = study[2].parent
    with zipfile.ZipFile(folder / "workflow.zip") as packed:
        names = packed.namelist()
    assert {"Snakefile", "requirements.lock", "workflow/neurorad/cli.py", "CITATION.cff"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("/")]
    assert '"table_a" -> "report"' in (folder / "dag.dot").read_text()
    assert rule_graph(MADE).count("->") == 1
    table = read_table(folder / "environment.tsv").set_index("package")
    assert table.loc["numpy", "version"] == packages()["numpy"]
    assert "BSD" in table.loc["numpy", "licence"]
    assert set(installed().columns) == {"package", "version", "licence"}


def test_every_release_has_terms_and_a_name():
    sources = yaml.safe_load((RESOURCES / "data_sources.yaml").read_text())
    allowed = yaml.safe_load((RESOURCES.parent / "workflow" / "schemas" / "config.schema.yaml").read_text())
    releases = allowed["properties"]["cohorts"]["additionalProperties"]["properties"]["release"]["enum"]
    assert set(sources) == set(releases)
    assert all({"name", "terms", "cite"} <= set(source) for source in sources.values())


def test_software_is_listed_with_its_versions(study):
    graph = entities(made(study))
    assert graph["#neurorad"]["softwareVersion"] == __version__
    assert len(graph["#neurorad"]["softwareRequirements"]) == len(packages())
    for name, number in packages().items():
        assert graph[f"#package-{name}"]["softwareVersion"] == number
        assert graph[f"#package-{name}"]["license"]


def test_packages_are_the_declared_ones_without_extras():
    project = tomllib.loads((RESOURCES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {text.split("==")[0]: text.split("==")[1] for text in project["dependencies"]}
    assert packages() == declared
    assert "pytest" not in packages()


def test_a_package_that_is_not_installed_says_so(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from neurorad.provenance import crate

    def nowhere(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(crate, "version", nowhere)
    assert set(packages().values()) == {"not installed"}


@pytest.mark.parametrize(("suffix", "kind"), [*FORMATS.items(), (".xyz", "application/octet-stream")])
def test_the_media_type_follows_the_suffix(tmp_path, suffix, kind):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"12345")
    assert file_properties(path)["encodingFormat"] == kind
    assert file_properties(path)["contentSize"] == "5"


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_file_that_is_missing_or_a_folder_is_refused(study, tmp_path, what):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{what}: no such file; a crate lists files that exist"):
        crate_of(study, *study[1], tmp_path / what)


def test_a_missing_file_is_one_line_and_leaves_no_crate(study, tmp_path, capsys):
    _, files, out = study
    with pytest.raises(SystemExit) as left:
        by_verb(study, files[2], tmp_path / "gone.csv")
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("neurorad crate: ")
    assert error.endswith("gone.csv: no such file; a crate lists files that exist\n")
    assert not out.exists()


def test_a_missing_flag_exits_with_status_2(study, capsys):
    with pytest.raises(SystemExit) as left:
        main(["crate", str(study[1][0]), "--out", str(study[2])])
    assert left.value.code == 2
    assert "the following arguments are required: --config" in capsys.readouterr().err
