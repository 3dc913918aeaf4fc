"""Where dipjax keeps what it can make again."""

import os


def find_cache() -> str:
  """Returns the user's folder for it, which may not exist yet."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(home, 'dipjax')
