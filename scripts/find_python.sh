# Other scripts source this file. `find_python VERSION...` prints the first interpreter of these versions that runs. It
# looks on PATH and among pyenv's versions.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      # It must run, and have the version of its name: pyenv puts commands on PATH that only print an error.
      if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        echo "$candidate"
        return
      fi
    done
  done
  echo "$(basename "$0"): no Python ${*// / or } on PATH or among pyenv's versions: install one" >&2
  return 1
}
