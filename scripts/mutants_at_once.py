#!/usr/bin/env python3
"""Tries a random sample of the mistakes of cargo-mutants without compiling each of them.

    python3 scripts/mutants_at_once.py plant               all mistakes, each behind a switch, in a copy of the source
    python3 scripts/mutants_at_once.py reach               which tests reach which mistakes
    python3 scripts/mutants_at_once.py hunt SEED COUNT     whether tests find the mistakes of a sample; again: those that are left

`scripts/mutants.sh` compiles the crate for every mistake. Here `a + b` becomes `(if mutant(7) { a - b } else { a + b })`, and the variable
FMNIST_MUTANT=7 switches mistake 7 on, so that one costs only the time of the tests that reach it, the nearest and the shortest first.
What does not compile in this form is left out: mistakes in constants, and most of those that cargo-mutants cannot compile either.

Everything is in target/mutants-at-once: `mistakes.json`, `left_out.json`, `reach.json`, and `sample-SEED.json` with the test that found each
mistake. What is left and is not in docs/mutants.md is a missing test. Pages are not tried: the tests in browsers run another program.

Needs the page (`sh web/build.sh`), `cargo install --locked cargo-mutants` and `pip install tree-sitter tree-sitter-rust`. Two cores take some
15 minutes for `plant`, 25 for `reach`, and 20 for `hunt` with 350 mistakes.
"""

import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "mutants-at-once"
TREE = FOLDER / "source"
BUILT = FOLDER / "built"
# The crate is compiled fast rather than well; the dependencies are those of the tests.
CARGO = ["--release", "--locked", "--config=profile.release.lto=false"]
CARGO += [f"--config=profile.release.package.fmnist-gpu.{setting}" for setting in ("opt-level=1", "codegen-units=64")]
# Browsers, fixed texts, and programs that are built or killed: they take long, and find nothing that the others do not.
SKIPPED = ("page::", "report_page::", "examples::", "sweeps::", "registry::", "crash_points::", "mutants::", "shaders::")
# Seconds for one test, and for all tests of one mistake.
LONGEST_TEST, LONGEST_MISTAKE = 240, 60
# The value of FMNIST_MUTANT that writes down which mistakes are reached, instead of switching one on.
REACHED = "reached"

SWITCH = """
/// Switches of planted mistakes.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod mutant_switch {
    use std::sync::atomic::{AtomicU8, Ordering};
    pub static SWITCHES: [AtomicU8; COUNT] = [const { AtomicU8::new(0) }; COUNT];
    const ON: u8 = 1;
    const WRITE_DOWN: u8 = 2;
    extern "C" fn start() {
        match std::env::var("FMNIST_MUTANT").as_deref() {
            Ok("reached") => SWITCHES.iter().for_each(|switch| switch.store(WRITE_DOWN, Ordering::Relaxed)),
            Ok(id) => SWITCHES[id.parse::<usize>().unwrap()].store(ON, Ordering::Relaxed),
            Err(_) => {}
        }
    }
    #[used]
    #[unsafe(link_section = ".init_array")]
    static START: extern "C" fn() = start;
    #[cold]
    #[inline(never)]
    pub fn is_on(id: usize) -> bool {
        use std::io::Write;
        if SWITCHES[id].load(Ordering::Relaxed) == ON {
            return true;
        }
        if SWITCHES[id].swap(0, Ordering::Relaxed) == WRITE_DOWN {
            if let Ok(path) = std::env::var("FMNIST_MUTANT_REACHED") {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                file.unwrap().write_all(format!("{id}\\n").as_bytes()).unwrap();
            }
        }
        false
    }
}
/// Whether a mistake is switched on.
#[doc(hidden)]
#[inline(always)]
pub fn mutant(id: usize) -> bool {
    mutant_switch::SWITCHES[id].load(std::sync::atomic::Ordering::Relaxed) != 0 && mutant_switch::is_on(id)
}
"""


def read(name, otherwise=None):
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else otherwise


def write(name, value):
    (FOLDER / name).write_text(json.dumps(value))


class Planter:
    """Plants mistakes in one file. Only one is switched on at a time, so the operands of a mistake contain no others."""

    def __init__(self, source, mistakes, call, parser):
        self.source, self.call = source, call
        self.starts = [0]
        for line in source.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.root = parser.parse(source).root_node
        self.at = collections.defaultdict(list)
        # Mistakes for which there is no form with a switch.
        self.left_out = set()
        for mistake in mistakes:
            node = self.node_of(mistake)
            if node is None:
                self.left_out.add(mistake["id"])
            else:
                self.at[node.id].append(mistake)

    def offset(self, place):
        start = self.starts[place["line"] - 1]
        line = self.source[start : self.starts[place["line"]]].decode()
        return start + len(line[: place["column"] - 1].encode())

    def node_of(self, mistake):
        """Returns the node that a mistake changes."""
        span, genre = mistake["span"], mistake["genre"]
        first = self.offset(span["start"])
        node = self.root.descendant_for_byte_range(first, self.offset(span["end"]))
        if genre == "StructField":
            name = mistake["name"].split("delete field ")[1].split(" ")[0]
            return self.field_of(self.root, name.encode(), span["start"]["line"] - 1)
        wanted = {
            "FnValue": lambda n: n.type == "block" and n.parent.type == "function_item",
            "BinaryOperator": lambda n: n.type in ("binary_expression", "compound_assignment_expr"),
            "UnaryOperator": lambda n: n.type == "unary_expression",
            "MatchArm": lambda n: n.type == "match_arm",
            "MatchArmGuard": lambda n: n.type == "match_pattern",
        }[genre]
        while node is not None and not wanted(node):
            node = node.parent
        if node is None:
            return None
        if genre == "BinaryOperator":
            operator = node.child_by_field_name("operator")
            is_chain = any(child.type == "let_condition" for child in node.children)
            return node if operator.start_byte == first and not is_chain else None
        if genre == "MatchArmGuard":
            guard = node.child_by_field_name("condition")
            return guard if guard is not None and guard.type not in ("let_condition", "let_chain") else None
        return node

    def field_of(self, node, name, row):
        """Returns the field of a struct expression that begins in this row."""
        if not node.start_point[0] <= row <= node.end_point[0]:
            return None
        if node.type in ("field_initializer", "shorthand_field_initializer") and node.start_point[0] == row:
            if self.text(node.child_by_field_name("field") or node) == name:
                return node
        found = (self.field_of(child, name, row) for child in node.children)
        return next((node for node in found if node is not None), None)

    def text(self, node):
        return self.source[node.start_byte : node.end_byte]

    def planted(self):
        root = self.root
        return self.source[: root.start_byte] + self.render(root) + self.source[root.end_byte :]

    def render_children(self, node):
        parts, at = [], node.start_byte
        for child in node.children:
            parts += [self.source[at : child.start_byte], self.render(child)]
            at = child.end_byte
        return b"".join([*parts, self.source[at : node.end_byte]])

    def switch(self, mistake):
        return f"{self.call}({mistake['id']})".encode()

    def render(self, node):
        whole = self.render_children(node)
        if node.type == "match_pattern":
            return self.render_pattern(node, whole)
        for mistake in self.at.get(node.id, []) if node.type != "match_arm" else []:
            whole = getattr(self, "plant_" + mistake["genre"])(node, mistake, self.switch(mistake), whole)
        return whole

    def render_pattern(self, node, whole):
        """The pattern of an arm that a mistake deletes does not match."""
        for mistake in self.at.get(node.parent.id, []):
            guard = node.child_by_field_name("condition")
            if guard is None:
                return whole + b" if !" + self.switch(mistake)
            if guard.type in ("let_condition", "let_chain"):
                self.left_out.add(mistake["id"])
                return whole
            before = self.source[node.start_byte : guard.start_byte]
            return before + b"!" + self.switch(mistake) + b" && (" + self.render(guard) + b")"
        return whole

    def plant_FnValue(self, _node, mistake, switch, whole):
        value = mistake["replacement"].encode()
        return b"{ if " + switch + b" { #[allow(clippy::all)] return " + value + b"; } " + whole[1:]

    def plant_BinaryOperator(self, node, mistake, switch, whole):
        left, right = (self.text(node.child_by_field_name(side)) for side in ("left", "right"))
        wrong = b" ".join([left, mistake["replacement"].encode(), right])
        return b"(if " + switch + b" { " + wrong + b" } else { " + whole + b" })"

    def plant_UnaryOperator(self, node, _mistake, switch, whole):
        return b"(if " + switch + b" { " + self.text(node.children[-1]) + b" } else { " + whole + b" })"

    def plant_MatchArmGuard(self, _node, mistake, switch, whole):
        before = switch + b" || " if mistake["replacement"] == "true" else b"!" + switch + b" && "
        return b"(" + before + b"(" + whole + b"))"

    def plant_StructField(self, node, mistake, switch, whole):
        fields = node.parent
        base = [child for child in fields.children if child.type == "base_field_initializer"]
        if not base:
            self.left_out.add(mistake["id"])
            return whole
        name, value = whole, whole
        if node.type == "field_initializer":
            name, value = self.text(node.child_by_field_name("field")), whole[whole.index(b":") + 1 :]
        struct = self.text(fields.parent.child_by_field_name("name"))
        base = b"let base: " + struct + b" = " + self.text(base[0].children[-1]) + b"; base." + name
        return name + b": if " + switch + b" { " + base + b" } else { " + value + b" }"


def plant_all(sources, mistakes, left_out, parser):
    """Writes the copy of the source with all mistakes but those that are left out, and returns which have no form with a switch."""
    of_file = collections.defaultdict(list)
    for mistake in mistakes:
        of_file[mistake["file"]].append(mistake)
    without_form = set()
    for file, of_this in of_file.items():
        source = sources[file]
        call = "fmnist_gpu::mutant" if file.startswith(("src/cli/", "src/main.rs")) else "crate::mutant"
        planter = Planter(source, [mistake for mistake in of_this if mistake["id"] not in left_out], call, parser)
        (TREE / file).write_bytes(planter.planted())
        without_form |= planter.left_out
    switch = SWITCH.replace("COUNT", str(len(mistakes)))
    (TREE / "src/lib.rs").write_bytes(sources["src/lib.rs"] + switch.encode())
    return without_form


def cargo(command, *arguments, **options):
    environment = dict(os.environ, CARGO_TARGET_DIR=str(BUILT))
    return subprocess.run(["cargo", command, *CARGO, *arguments], cwd=TREE, env=environment, text=True, **options)


def blamed(message):
    """Returns the mistakes that an error of the compiler is about: those in its place, and the last before it."""
    found, near = set(), set()
    for span in message["spans"]:
        is_primary = span["is_primary"]
        while span.get("expansion"):
            span = span["expansion"]["span"]
        path = TREE / span["file_name"]
        if not is_primary or not path.exists():
            continue
        lines = path.read_text().split("\n")
        first, last = span["line_start"] - 1, span["line_end"]
        before = "\n".join([*lines[max(0, first - 60) : first], lines[first][: span["column_start"] - 1]])
        inside = lines[first][span["column_start"] - 1 : span["column_end"] - 1] if last == first + 1 else ""
        switches = r"\bmutant\((\d+)\)"
        found |= {int(id) for id in re.findall(switches, inside)[:8]}
        near |= {int(id) for id in re.findall(switches, before)[-1:]}
        # An error about the whole function or match: all its values and deleted arms.
        body = re.findall(r"if \w+::mutant\((\d+)\) \{ #\[allow", "\n".join(lines[max(0, first - 60) : first + 1]))
        arms = re.findall(r" if !\w+::mutant\((\d+)\)", "\n".join(lines[first : last + 25]))
        near |= {int(id) for id in (arms if "non-exhaustive" in message["message"] else body[-3:] if not inside else [])}
    return found | near


def plant():
    from tree_sitter import Language, Parser
    import tree_sitter_rust

    parser = Parser(Language(tree_sitter_rust.language()))
    listed = subprocess.run(["cargo", "mutants", "--list", "--json"], cwd=ROOT, check=True, capture_output=True, text=True)
    mistakes = [dict(mistake, id=id) for id, mistake in enumerate(json.loads(listed.stdout))]
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    # The source as it is now: what is edited meanwhile does not matter.
    sources = {file: (ROOT / file).read_bytes() for file in files if file.startswith("src/")}
    for file in filter(None, files):
        (TREE / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, TREE / file)
    shutil.copytree(ROOT / "web/dist", TREE / "web/dist", dirs_exist_ok=True)
    write("mistakes.json", mistakes)
    left_out = set()
    while True:
        without_form = plant_all(sources, mistakes, left_out, parser)
        checked = cargo("check", "--lib", "--bins", "--message-format=json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if checked.returncode == 0:
            break
        messages = [json.loads(line).get("message") for line in checked.stdout.split("\n") if line.startswith("{")]
        errors = [message for message in messages if isinstance(message, dict) and message["level"] == "error"]
        wrong = set().union(*map(blamed, errors)) - left_out
        if not wrong:
            sys.exit("\n".join(error["rendered"] for error in errors))
        left_out |= wrong
        print(f"{len(left_out)} of {len(mistakes)} mistakes do not compile so far", flush=True)
    write("left_out.json", sorted(left_out | without_form))
    build()
    print(f"{len(mistakes) - len(left_out | without_form)} of {len(mistakes)} mistakes are planted")


def build():
    """Builds the tests in `tests`, and those of the library and of the program."""
    built = cargo("test", "--no-run", "--lib", "--bins", "--test=tests", "--message-format=json", check=True, stdout=subprocess.PIPE)
    artifacts = [json.loads(line) for line in built.stdout.split("\n") if line.startswith("{")]
    tests = [artifact for artifact in artifacts if artifact.get("executable") and artifact["profile"]["test"]]
    write("programs.json", {artifact["target"]["kind"][0]: artifact["executable"] for artifact in tests})


def listed_tests():
    """Returns the names of all tests, each after that of its program."""
    for program, path in read("programs.json").items():
        listed = subprocess.run([path, "--list"], cwd=TREE, check=True, capture_output=True, text=True).stdout
        tests = [line.removesuffix(": test") for line in listed.split("\n") if line.endswith(": test")]
        yield from (f"{program} {test}" for test in tests if not test.startswith(SKIPPED))


def run_test(name, seconds, **variables):
    """Runs a test in its own process, and returns whether it passed in time."""
    program, test = name.split(" ")
    environment = dict(os.environ, **variables)
    child = subprocess.Popen(
        ["env", "--default-signal=INT,QUIT", read("programs.json")[program], test, "--exact"],
        cwd=TREE,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return child.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return False


def in_threads(items, work):
    items, lock = iter(items), threading.Lock()

    def worker():
        while True:
            with lock:
                item = next(items, None)
            if item is None:
                return
            work(item, lock)

    threads = [threading.Thread(target=worker) for _ in range(os.cpu_count())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def reach():
    known = read("reach.json", {})

    def record(test, lock):
        path = FOLDER / f"reached-{threading.get_ident()}"
        path.unlink(missing_ok=True)
        begin = time.monotonic()
        passed = run_test(test, LONGEST_TEST, FMNIST_MUTANT=REACHED, FMNIST_MUTANT_REACHED=str(path))
        ids = sorted({int(id) for id in path.read_text().split()}) if path.exists() else []
        path.unlink(missing_ok=True)
        with lock:
            known[test] = {"passed": passed, "seconds": time.monotonic() - begin, "ids": ids}
            write("reach.json", known)
            if not passed:
                print(f"{test} does not pass without mistakes, or takes too long", flush=True)

    in_threads([test for test in listed_tests() if test not in known], record)
    reached = set().union(*(test["ids"] for test in known.values()))
    planted = len(read("mistakes.json")) - len(read("left_out.json"))
    print(f"{len(reached)} of {planted} mistakes are reached by some test")


def hunt(seed, count):
    mistakes, left_out = read("mistakes.json"), set(read("left_out.json"))
    tests = {name: test for name, test in read("reach.json").items() if test["passed"]}
    reaching = collections.defaultdict(list)
    for name, test in tests.items():
        for id in test["ids"]:
            reaching[id].append(name)
    sample = random.Random(seed).sample([m["id"] for m in mistakes if m["id"] not in left_out], count)
    name = f"sample-{seed}.json"
    found = read(name, {})

    def order(id):
        words = [word for word in re.split(r"[/_.]", mistakes[id]["file"]) if len(word) > 3]

        def cost(test):
            is_near = any(word in test.split("::")[0] for word in words) or not test.startswith("test ")
            return tests[test]["seconds"] * (0.3 if is_near else 1.0)

        return sorted(reaching[id], key=cost)

    def search(id, lock):
        begin, by = time.monotonic(), None
        # What was left the last time is tried with the tests that took too long then.
        again = str(id) in found
        longest = LONGEST_MISTAKE * (10 if again else 1)
        for test in order(id):
            seconds = tests[test]["seconds"]
            if time.monotonic() - begin + seconds <= longest and not run_test(test, 25 + 5 * seconds, FMNIST_MUTANT=str(id)):
                by = test
                break
        with lock:
            found[str(id)] = by
            write(name, found)
            if by is None:
                print(f"{mistakes[id]['name']}: {len(reaching[id])} tests reach it", flush=True)

    in_threads([id for id in sample if found.get(str(id)) is None], search)
    print(f"{sum(by is not None for by in found.values())} of {count} mistakes are found")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    sys.setrecursionlimit(10_000)
    match sys.argv[1:]:
        case ["plant"]:
            plant()
        case ["reach"]:
            reach()
        case ["hunt", seed, count]:
            hunt(int(seed), int(count))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
