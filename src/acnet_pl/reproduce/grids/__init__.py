"""What can be reproduced, one module each: a `GRID` of the article or a smaller one."""
