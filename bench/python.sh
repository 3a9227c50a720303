# Sourced by run.sh, gpu.sh and data.sh: chooses the Python that runs the peers, with PyTorch, as ${python[@]}.
# CAPPA_BENCH_PYTHON names one that has torch; otherwise torch is fetched into an ignored folder.
export PYTHONDONTWRITEBYTECODE=1 # no caches beside the scripts
# PEER_PACKAGES are fetched beside it.
TORCH_PACKAGES=(torch==2.11.0 numpy==2.2.6 ${PEER_PACKAGES[@]+"${PEER_PACKAGES[@]}"})

if [[ -n ${CAPPA_BENCH_PYTHON:-} ]]; then
    python=("$CAPPA_BENCH_PYTHON")
else
    site=$PWD/.venv/torch${PEER_PACKAGES:+-peers}
    if [[ ! -e $site/.complete ]]; then
        echo "fetching ${TORCH_PACKAGES[*]} into ${site#"$PWD"/}" >&2
        python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$site" "${TORCH_PACKAGES[@]}"
        touch "$site/.complete"
    fi
    python=(env "PYTHONPATH=$site" python3)
fi
"${python[@]}" -c 'import torch' || { echo "${python[*]} has no usable torch" >&2; exit 1; }
