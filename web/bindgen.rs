//! Makes a library for wasm32 loadable by a page, as the program `wasm-bindgen` does: `bindgen FILE.wasm KIND FOLDER`. The kind `page` is a
//! module of JavaScript; `classifier` is a script, as pages without a server cannot load modules.

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, kind, folder] = &arguments[..] else { panic!("usage: bindgen FILE.wasm KIND FOLDER") };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(input).typescript(false).remove_name_section(true).remove_producers_section(true);
    match kind.as_str() {
        "classifier" => bindgen.out_name("classifier").no_modules(true),
        _ => bindgen.out_name("fmnist_gpu_web").web(true),
    }
    .and_then(|bindgen| bindgen.generate(folder))
    .expect("writing the module");
}

#[cfg(target_arch = "wasm32")]
fn main() {}
