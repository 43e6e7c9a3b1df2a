//! Makes a library for wasm32 loadable by a page, as the program `wasm-bindgen` does: `bindgen FILE.wasm FOLDER`.

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, folder] = &arguments[..] else { panic!("usage: bindgen FILE.wasm FOLDER") };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(input).typescript(false).remove_name_section(true).remove_producers_section(true);
    bindgen.web(true).and_then(|bindgen| bindgen.generate(folder)).expect("writing the module");
}

#[cfg(target_arch = "wasm32")]
fn main() {}
