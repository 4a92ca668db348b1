"""What the documentation is made of: pages generated from the code, the site's hooks, and the README's figure."""
